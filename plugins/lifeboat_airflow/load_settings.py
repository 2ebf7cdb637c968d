"""Loads an airflow_settings.yaml into Airflow's database: `python -m lifeboat_airflow.load_settings FILE`.

The file has the form of the Astro CLI's, which loads it by itself. Here `${NAME}` and `${NAME:-default}` in a value are
taken from the environment; what is empty is left out. May be repeated: what is there under the same name is replaced.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from airflow.models.connection import Connection
from airflow.models.pool import Pool
from airflow.models.variable import Variable
from airflow.utils.session import create_session
from sqlalchemy import delete

from lifeboat.errors import LifeboatError, SettingsError


def load_settings(file: Path, environ: Mapping[str, str]) -> list[str]:
    """Load connections, pools and variables, and return their names. Raises `SettingsError`; loads all or nothing."""
    document = yaml.safe_load(file.read_text("utf-8")) or {}
    settings = _substituted(document.get("airflow") or {}, environ, file)
    connections = [_connection(entry) for entry in settings.get("connections") or []]
    with create_session() as session:
        for connection in connections:
            session.execute(delete(Connection).where(Connection.conn_id == connection.conn_id))
            session.add(connection)
        for pool in settings.get("pools") or []:
            name, slots = pool["pool_name"], int(pool["pool_slot"])
            text, deferred = pool.get("pool_description", ""), bool(pool.get("pool_include_deferred"))
            Pool.create_or_update_pool(name, slots, text, include_deferred=deferred, session=session)
        for variable in settings.get("variables") or []:
            Variable.set(variable["variable_name"], variable["variable_value"], session=session)
    names = [str(connection.conn_id) for connection in connections]
    names += [pool["pool_name"] for pool in settings.get("pools") or []]
    return names + [variable["variable_name"] for variable in settings.get("variables") or []]


def _connection(entry: Mapping[str, Any]) -> Connection:
    if uri := entry.get("conn_uri"):
        return Connection(conn_id=entry["conn_id"], uri=uri)
    extra = entry.get("conn_extra") or None
    return Connection(
        conn_id=entry["conn_id"],
        conn_type=entry["conn_type"],
        host=entry.get("conn_host"),
        schema=entry.get("conn_schema"),
        login=entry.get("conn_login"),
        password=entry.get("conn_password"),
        port=entry.get("conn_port"),
        extra=json.dumps(extra) if isinstance(extra, dict) else extra,
    )


def _substituted(value: Any, environ: Mapping[str, str], file: Path) -> Any:
    """The same value with its placeholders filled in, without the entries that are empty then."""
    if isinstance(value, dict):
        filled = {key: _substituted(entry, environ, file) for key, entry in value.items()}
        return {key: entry for key, entry in filled.items() if entry not in ("", None)}
    if isinstance(value, list):
        return [_substituted(entry, environ, file) for entry in value]
    return _PLACEHOLDER.sub(lambda found: _variable(found, environ, file), value) if isinstance(value, str) else value


def _variable(found: re.Match[str], environ: Mapping[str, str], file: Path) -> str:
    name, default = found["name"], found["default"]
    if name not in environ and default is None:
        raise SettingsError(
            f"{file} wants the variable {name}, which is not set.",
            hint=f"Set {name} in the environment, or write its value into the file.",
        )
    return environ.get(name) or default or ""


_PLACEHOLDER = re.compile(r"\$\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\}")


if __name__ == "__main__":
    try:
        print("Loaded", ", ".join(load_settings(Path(sys.argv[1]), os.environ)))
    except LifeboatError as error:
        sys.exit(str(error))
