"""airflow_settings.yaml, loaded without the Astro CLI."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from airflow.models.connection import Connection
from airflow.models.pool import Pool
from airflow.utils.session import create_session
from sqlalchemy import delete, select

from lifeboat.errors import SettingsError
from lifeboat.settings import load_platform
from lifeboat_airflow.load_settings import load_settings
from tests.dags.airflow_home import ROOT

FILE = ROOT / "airflow_settings.yaml"
VARIABLES = {
    "SME_PLATFORM_DB_URI": "postgres://sme:p%40ss@db.example:5433/sme_platform_db",
    "LIFEBOAT_S3_ACCESS_KEY": "access",
    "LIFEBOAT_S3_SECRET_KEY": "secret ${not} a placeholder",
    "LIFEBOAT_KEYRING": "/etc/lifeboat/keys",
}


@pytest.fixture(autouse=True)
def _no_connections_left(airflow_db: None) -> Iterator[None]:
    yield
    with create_session() as session:
        session.execute(delete(Connection))


def test_it_gives_every_connection_that_platform_yaml_names() -> None:
    names = load_settings(FILE, VARIABLES)

    platform = load_platform(ROOT / "include" / "platform.yaml")
    wanted = {platform.keyring, *(database.connection for database in platform.sources.databases)}
    wanted |= {repository.connection for repository in platform.repositories if repository.connection}
    assert platform.notify is not None
    assert platform.notify.email is not None
    wanted.add(platform.notify.email.connection)
    optional = {"sme_platform_redis"}  # of the example there, in comments
    assert wanted | optional == set(names)


def test_pools_and_variables_of_ones_own_are_loaded_too(tmp_path: Path) -> None:
    file = tmp_path / "airflow_settings.yaml"
    file.write_text(
        "airflow:\n  pools: [{pool_name: mine, pool_slot: 2}]\n"
        "  variables: [{variable_name: own, variable_value: text}]\n"
    )

    assert load_settings(file, {}) == ["mine", "own"]
    mine = Pool.get_pool("mine")
    assert mine is not None
    assert mine.slots == 2


def test_placeholders_are_filled_in_and_empty_ones_left_out() -> None:
    load_settings(FILE, VARIABLES)

    database, s3 = connection("sme_platform_db"), connection("lifeboat_s3")
    assert (database.host, database.port, database.login, database.password, database.schema) == (
        "db.example", 5433, "sme", "p@ss", "sme_platform_db"
    )  # fmt: skip
    assert (s3.login, s3.password) == ("access", "secret ${not} a placeholder")
    assert s3.extra_dejson == {"region_name": "eu-central-1"}


def test_loading_again_replaces_what_was_there() -> None:
    load_settings(FILE, VARIABLES)
    load_settings(FILE, VARIABLES | {"LIFEBOAT_S3_ACCESS_KEY": "another"})

    assert connection("lifeboat_s3").login == "another"


def test_a_variable_that_is_not_set_is_named_and_nothing_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"airflow_settings\.yaml wants the variable LIFEBOAT_KEYRING"):
        load_settings(FILE, {name: value for name, value in VARIABLES.items() if name != "LIFEBOAT_KEYRING"})

    with create_session() as session:
        assert session.scalars(select(Connection)).all() == []


def connection(conn_id: str) -> Connection:
    with create_session() as session:
        found = session.scalars(select(Connection).where(Connection.conn_id == conn_id)).one()
        session.expunge(found)
        return found
