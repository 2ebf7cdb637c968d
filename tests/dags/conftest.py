"""Airflow with the project's DAGs, on a platform of two real databases, an S3 server and a local repository."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.dags.airflow_home import ROOT

from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db  # isort: skip
from airflow.models.dagbundle import DagBundleModel  # isort: skip
from airflow.sdk.definitions import dag as dag_module  # isort: skip
from airflow.utils import db  # isort: skip
from airflow.utils.session import create_session  # isort: skip

from demo.storage import S3Server
from lifeboat.assembly import open_vault
from lifeboat.connections import connections_in
from lifeboat.keys import Identity, SigningKey, write_key
from lifeboat.postgres.connection import PostgresServer
from lifeboat.settings import load_platform
from lifeboat.vault import Vault
from lifeboat_airflow.operators.database import PostgresBackupOperator
from tests.fixtures_postgres import make_odd_database, new_name
from tests.fixtures_redis import PASSWORD, RedisServers, Running, fill
from tests.fixtures_storage import BUCKET

PLATFORM = """\
platform: odd
recipients: [operations, escrow]
repositories:
  - name: s3
    url: s3://{bucket}/{prefix}
    connection: lifeboat_s3
  - name: local
    url: file://{local}
sources:
  databases:
    - name: orders
      connection: platform_db
      database: {first}
    - name: odd
      connection: platform_db
      database: {second}
  configuration:
    - name: settings
      root: {folder}/platform
      paths: [.env, k8s/*.yaml]
"""


@dataclass(frozen=True)
class Place:
    """A platform of one test: its file, its connections, its folders."""

    folder: Path
    connections: Mapping[str, str]

    @property
    def local(self) -> Path:
        return self.folder / "local"

    @property
    def keyring(self) -> Path:
        return self.folder / "keys"

    def vault(self) -> Vault:
        """The vault as the command line opens it."""
        return open_vault(load_platform(self.folder / "platform.yaml"), connections_in(self.connections))


@pytest.fixture(scope="session")
def airflow_db() -> None:
    """Airflow's own database."""
    db.initdb()
    with create_session() as session:
        session.add(DagBundleModel(name="testing"))


@pytest.fixture(scope="module")
def databases(postgres: PostgresServer) -> tuple[str, str]:
    """Two databases with one of everything."""
    names = new_name("dag orders"), new_name("dag odd")
    for name in names:
        make_odd_database(postgres, name)
    return names


@pytest.fixture
def place(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    postgres: PostgresServer,
    s3_store: S3Server,
    databases: tuple[str, str],
    airflow_db: None,
) -> Place:
    """The platform of one test, with its connections in the environment, and its vault made."""
    keys = tmp_path / "keys"
    for identity in (Identity.generate("operations"), Identity.generate("escrow")):
        write_key(keys, identity.recipient)
        write_key(keys, identity)
    signing_key = SigningKey.generate("host")
    write_key(keys, signing_key)
    write_key(keys, signing_key.signer)
    first, second = databases
    (tmp_path / "platform.yaml").write_text(
        PLATFORM.format(
            bucket=BUCKET, prefix=tmp_path.name, local=tmp_path / "local", first=first, second=second, folder=tmp_path
        )
    )
    (tmp_path / "local").mkdir()
    (tmp_path / "platform").mkdir()
    (tmp_path / "platform" / ".env").write_text("DB_PASSWORD=hunter2\nWORKERS=4\n")
    database = {"conn_type": "postgres", "host": postgres.host, "port": postgres.port, "login": postgres.user}
    connections = {
        "AIRFLOW_CONN_LIFEBOAT_KEYS": json.dumps({"conn_type": "generic", "extra": {"keyring": str(keys)}}),
        "AIRFLOW_CONN_LIFEBOAT_S3": s3_connection(s3_store, s3_store.endpoint),
        "AIRFLOW_CONN_PLATFORM_DB": json.dumps(database | {"password": postgres.password}),
    }
    for name, value in connections.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LIFEBOAT_PLATFORM", str(tmp_path / "platform.yaml"))
    made = Place(tmp_path, connections)
    Vault.create(open_members(made))
    return made


def add_tree(place: Place) -> Path:
    """Have the platform protect a tree of files as well; returns its folder, with one file in it."""
    root = place.folder / "uploads"
    root.mkdir()
    (root / "file").write_bytes(b"contents")
    with (place.folder / "platform.yaml").open("a") as file:
        file.write(f"  files:\n    - name: uploads\n      path: {root}\nstate: {place.folder}/state\n")
    return root


def back_up_tree_of(place: Place) -> Any:
    """Back the platform's tree up as the command line does; returns the snapshot."""
    from lifeboat.assembly import tree_source
    from lifeboat.files.sync import back_up_tree

    source = tree_source(load_platform(place.folder / "platform.yaml"), "uploads", lambda _: None)
    return back_up_tree(place.vault(), source, began=datetime.now(UTC)).snapshot


def open_members(place: Place) -> list[Any]:
    """The repositories of a platform whose vault is not made yet."""
    from lifeboat.assembly import open_member

    platform = load_platform(place.folder / "platform.yaml")
    return [open_member(platform, index, connections_in(place.connections)) for index in range(2)]


def s3_connection(server: S3Server, endpoint: str) -> str:
    """A connection to an S3 server, at its own address or through another."""
    extra = {"endpoint_url": endpoint, "region_name": "us-east-1"}
    login = {"login": server.access_key, "password": server.secret_key}
    return json.dumps({"conn_type": "aws", **login, "extra": extra})


@pytest.fixture
def sessions(place: Place, redis_servers: RedisServers, monkeypatch: pytest.MonkeyPatch) -> Running:
    """A Redis that the platform names as `sessions`."""
    running = redis_servers.start("redis-8.2")
    fill(running)
    file = place.folder / "platform.yaml"
    file.write_text(file.read_text() + "  redis:\n    - name: sessions\n      connection: platform_redis\n")
    monkeypatch.setenv("AIRFLOW_CONN_PLATFORM_REDIS", redis_connection(running, PASSWORD))
    return running


def redis_connection(running: Running, password: str) -> str:
    """A connection to a Redis, in the form of Airflow's Redis hook."""
    record: dict[str, Any] = {"conn_type": "redis", "host": "127.0.0.1", "port": running.server.port}
    return json.dumps(record | {"password": password, "extra": {"db": 0}})


RunDag = Callable[..., Any]

AT_WORK = threading.Lock()
"""Held while `DAG.test()` runs a task. It writes the task's state once more afterwards: what a person or the scheduler
did meanwhile to a question would be lost, and the run would wait for ever. Airflow's own processes do not do so."""


@pytest.fixture(autouse=True)
def _answers_wait_for_the_end_of_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    run_task = dag_module._run_task

    def run_alone(**arguments: Any) -> Any:
        with AT_WORK:
            return run_task(**arguments)

    monkeypatch.setattr(dag_module, "_run_task", run_alone)


@pytest.fixture
def run_dag(airflow_db: None) -> RunDag:
    """Parse and run one of the project's DAGs in this process, without retries, and return its finished run."""

    def run(dag_id: str, mark_success_pattern: str | None = None, **conf: object) -> Any:
        return parsed(dag_id).test(run_conf=conf, mark_success_pattern=mark_success_pattern)

    return run


def parsed(dag_id: str) -> Any:
    """One of the project's DAGs as it is parsed now, without retries, and known to Airflow."""
    bag = dag_bag(dag_id)
    assert not bag.import_errors, bag.import_errors
    dag = bag.dags[dag_id]
    for task in dag.task_dict.values():
        task.retries = 0
    dag.deadline = None  # DAG.test() takes the definition of one for its id when a DAG is known already
    sync_bag_to_db(bag, "testing", None)
    return dag


def dag_bag(dag_id: str) -> DagBag:
    """What parsing the DAG's file gives."""
    return DagBag(dag_folder=str(ROOT / "dags" / f"{dag_id}.py"), bundle_path=ROOT / "dags", bundle_name="testing")


@pytest.fixture(autouse=True)
def _own_environment() -> Iterator[None]:
    """Airflow sets variables of its own while a task runs."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def web(airflow_db: None) -> Iterator[Any]:
    """Airflow's real web application with the plugin's pages, in this process, and a person logged in as viewer."""
    from airflow.api_fastapi.app import create_app
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
    from fastapi.testclient import TestClient

    app = create_app(apps="core")
    token = app.state.auth_manager.generate_jwt(SimpleAuthManagerUser(username="watcher", role="viewer"))
    admin = app.state.auth_manager.generate_jwt(SimpleAuthManagerUser(username="boss", role="admin"))
    with TestClient(app, headers={"Authorization": f"Bearer {token}"}) as client:
        client.admin = {"Authorization": f"Bearer {admin}"}
        yield client


def result_of(run: Any, task_id: str, map_index: int = 0) -> Any:
    """What a mapped task handed on."""
    from airflow.models.xcom import XComModel

    with create_session() as session:
        query = XComModel.get_many(
            run_id=run.run_id, dag_ids=run.dag_id, task_ids=task_id, key="return_value", map_indexes=map_index
        )
        [row] = session.scalars(query)
        return XComModel.deserialize_value(row)


def back_up(source: str) -> Any:
    """Back a database up by its operator alone."""
    return backup_operator(source).execute(task_context())


def backup_operator(source: str, **arguments: Any) -> PostgresBackupOperator:
    return PostgresBackupOperator(task_id="back_up", source=source, outlets=[], **arguments)


def task_context() -> Any:
    """What the operator needs of a task's context."""

    class Run:
        run_after = datetime(2026, 11, 23, 2, tzinfo=UTC)

    return {"dag_run": Run(), "outlet_events": {}}
