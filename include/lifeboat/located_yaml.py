"""YAML that remembers its lines, so that an error can name the place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lifeboat.errors import SettingsError

KeyPath = tuple[str | int, ...]
"""Where a value stands in a document: mapping keys and list positions, outermost first."""


@dataclass(frozen=True)
class LocatedYaml:
    """A document as plain values, the line of every key and list item, and the keys that were given twice."""

    file: Path
    data: Any
    lines: Mapping[KeyPath, int]
    duplicates: Mapping[KeyPath, int]

    def line(self, path: KeyPath) -> int:
        """The line of a value; for one that is not there, of the nearest thing around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def place(self, path: KeyPath) -> str:
        """`file:line`, as editors understand it."""
        return f"{self.file}:{self.line(path)}"


def read_yaml(file: Path) -> LocatedYaml:
    """The document in a file, read as UTF-8. Raises `SettingsError` naming the line when it is not YAML."""
    try:
        text = file.read_text("utf-8")
    except FileNotFoundError:
        raise SettingsError(
            f"There is no file {file}.", hint="Name another with `--platform` or the variable LIFEBOAT_PLATFORM."
        ) from None
    except OSError as error:
        raise SettingsError(f"{file} cannot be read: {error.strerror}.", hint="Correct its owner or mode.") from error
    except UnicodeDecodeError as error:
        raise SettingsError(
            f"{file} is not UTF-8 text (byte {error.start}).", hint="Save it again, encoded as UTF-8."
        ) from error
    return parse_yaml(text, file)


def parse_yaml(text: str, file: Path) -> LocatedYaml:
    """The document in a text that is, or was, that of a file. Raises `SettingsError` as `read_yaml`."""
    try:
        reader = _Reader(yaml.SafeLoader(text))
        data = reader.document()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise SettingsError(
            f"{file}:{line} is not YAML: {error.problem or error.context}.",
            hint="Look at the indentation, quotes and colons of this line and the one before it.",
        ) from error
    except yaml.YAMLError as error:
        raise SettingsError(f"{file} is not YAML: {error}.", hint="Save it as plain text.") from error
    return LocatedYaml(file, data, reader.lines, reader.duplicates)


class _Reader:
    """Turns composed nodes into plain values, noting the line of each."""

    def __init__(self, loader: yaml.SafeLoader) -> None:
        self.lines: dict[KeyPath, int] = {}
        self.duplicates: dict[KeyPath, int] = {}
        self._loader = loader
        self._open: list[yaml.Node] = []

    def document(self) -> Any:
        try:
            node = self._loader.get_single_node()
            return None if node is None else self._value(node, ())
        finally:
            self._loader.dispose()

    def _value(self, node: yaml.Node, path: KeyPath) -> Any:
        self.lines.setdefault(path, _line(node))
        if any(node is outer for outer in self._open):
            raise _error("an alias refers to what contains it", node)
        self._open.append(node)
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                return [self._value(item, (*path, index)) for index, item in enumerate(node.value)]
            return self._loader.construct_object(node)
        except ValueError as error:  # a date or number of the right form and no sense, such as 2026-13-45
            raise _error(str(error), node) from error
        finally:
            self._open.pop()

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _error("a key must be plain text", key_node)
            # The text as written: YAML 1.1 would make a boolean of the keys `on` and `no`.
            key = str(key_node.value)
            if key in values:
                self.duplicates[(*path, key)] = _line(key_node)
            self.lines[(*path, key)] = _line(key_node)
            values[key] = self._value(value_node, (*path, key))
        return values


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _error(problem: str, node: yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
