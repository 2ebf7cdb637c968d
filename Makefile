# The commands of this project; `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
LOCK := UV_PYTHON_DOWNLOADS=never $(BIN)/uv pip compile --system-certs --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --custom-compile-command 'make lock'
# Root is told nothing of what others may not do: an ordinary user runs the live tests in its stead, and some once more.
IS_ROOT := $(filter 0,$(shell id -u))
# A file's tests stay together, since they share servers; every process has servers of its own, some 1 GB. One process
# more than there are cores, since tests also wait; tests/conftest.py says which files are begun first.
WORKERS := $(shell cores=$$(nproc); echo $$((cores < 4 ? cores + 1 : 4)))
PYTEST := -m pytest --dist loadfile --no-loadscope-reorder
export PYTHONPATH := $(CURDIR)/include
# Hundreds of processes are started; each would compile every module again where this is set.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# ---- setting up -----------------------------------------------------------------------------------------------------

.PHONY: setup
setup: $(VENV)/.installed ## Build .venv from the lock files (every other command does this by itself)

$(VENV)/.installed: requirements/dev.txt requirements/uv.txt requirements/install
	$(if $(PYTHON),PYTHON=$(PYTHON)) requirements/install $(VENV)
	@touch $@

# ---- using ----------------------------------------------------------------------------------------------------------

.PHONY: demo
demo: setup ## Back up, verify, restore and compare a whole platform, with a real Airflow, and leave nothing running
	$(BIN)/python -m demo run

.PHONY: up
up: setup ## Start the demo's platform and Airflow, and leave its pages open
	$(BIN)/python -m demo up

.PHONY: down
down: setup ## End what `make up` has started
	$(BIN)/python -m demo down

.PHONY: clean
clean: ## End what runs, and remove everything that was built
	if [ -x $(BIN)/python ]; then $(BIN)/python -m demo down && $(BIN)/python -m demo.ordinary demo; fi
	rm -rf $(VENV) .demo .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis

# ---- checking -------------------------------------------------------------------------------------------------------

.PHONY: test
test: setup ## Run every test, on real servers the tests start themselves
	$(if $(IS_ROOT),$(MAKE) --jobs=2 --keep-going test-by-root test-by-nobody,$(BIN)/python $(PYTEST) -n $(WORKERS))

# Live tests mostly wait, so others are run beside them: in one process those that share an Airflow, the rest in another.
.PHONY: test-by-root
test-by-root: setup ## The part of it that root runs, where root asks
	$(BIN)/python $(PYTEST) -n $(WORKERS) -m "not live"

.PHONY: test-by-nobody
test-by-nobody: setup ## The part that an ordinary user runs then: live tests, and once more those of restores
	$(BIN)/python -m demo.ordinary tests $(PYTEST) -n 2 -m "live or ordinary"

.PHONY: test-fast
test-fast: setup ## Run the tests that take seconds
	$(BIN)/python $(PYTEST) -n $(WORKERS) -m "not slow"

.PHONY: lint
lint: setup ## Check format, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy include plugins/lifeboat_airflow plugins/lifeboat_plugin.py

.PHONY: bench
bench: setup ## Measure Lifeboat beside other tools, and write docs/benchmark*.md
	$(BIN)/python -m bench
	$(BIN)/python -m bench.files
	$(BIN)/python -m bench.keeping

.PHONY: format
format: setup ## Put every file into the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: lock
lock: $(VENV)/.installed ## Pin every package again, with hashes, from requirements/*.in
	$(LOCK) requirements/airflow.in -o requirements.txt
	$(LOCK) requirements/dev.in -c requirements.txt --override requirements/overrides.txt -o requirements/dev.txt
	$(LOCK) requirements/restore.in -c requirements.txt -o requirements/restore.txt
	$(LOCK) requirements/foreign.in -o requirements/foreign.txt
