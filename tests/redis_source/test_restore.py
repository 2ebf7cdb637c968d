"""Restoring into running servers."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from lifeboat.errors import LifeboatError, NotReady, RestoreFailed, SettingsError, SourceRefused
from lifeboat.redis_source.backup import RedisSource, back_up_redis
from lifeboat.redis_source.connection import ACL_RULE_TO_RESTORE
from lifeboat.redis_source.restore import FLAG, restore_redis
from lifeboat.vault import Snapshot, Vault
from tests.fixtures_redis import PROGRAMS, VERSIONS, RedisServers, Running, contents, fill, same

pytestmark = pytest.mark.slow

NOW = datetime(2026, 11, 23, 2, 30, tzinfo=UTC)


def back_up(vault: Vault, running: Running) -> Snapshot:
    return back_up_redis(vault, RedisSource("sessions", running.server), began=NOW).snapshot


@pytest.mark.parametrize("version", VERSIONS)
def test_everything_comes_back_in_a_running_server(version: str, redis_servers: RedisServers, vault: Vault) -> None:
    source, target = redis_servers.start(version), redis_servers.start(version)
    fill(source)
    snapshot = back_up(vault, source)
    with target.client(3) as client:
        client.set("another", "stays")

    report = restore_redis(vault, snapshot, target.server, installed=PROGRAMS)

    expected = contents(source)
    with target.client(3) as client:
        assert client.getdel("another") == b"stays"
    assert same(expected, contents(target))
    assert report.restored == sum(place[0] >= 0 for place in expected)
    assert (report.overwritten, report.there_already, report.expired) == (0, 0, 0)


def test_values_come_back_in_a_newer_server(redis_servers: RedisServers, vault: Vault) -> None:
    source = redis_servers.start("redis-6.2")
    fill(source)
    snapshot = back_up(vault, source)

    for version in ("redis-8.2", "valkey-9.1"):
        target = redis_servers.start(version)
        restore_redis(vault, snapshot, target.server, installed=PROGRAMS)
        theirs = {place: found for place, found in contents(target).items() if found[0] != "stream"}
        ours = {place: found for place, found in contents(source).items() if found[0] != "stream"}
        assert same(ours, theirs)


@pytest.mark.parametrize(("newer", "older"), [("redis-8.2", "redis-6.2"), ("valkey-9.1", "redis-8.2")])
def test_a_server_that_is_too_old_is_refused_before_anything_is_written(
    newer: str, older: str, redis_servers: RedisServers, vault: Vault
) -> None:
    source, target = redis_servers.start(newer), redis_servers.start(older)
    fill(source)
    snapshot = back_up(vault, source)

    with pytest.raises(NotReady, match="does not take its values"):
        restore_redis(vault, snapshot, target.server, installed=PROGRAMS)

    assert contents(target) == {}


@pytest.mark.parametrize("version", VERSIONS)
def test_other_keys_of_the_same_names_are_refused_and_none_is_touched(
    version: str, redis_servers: RedisServers, vault: Vault
) -> None:
    source, target = redis_servers.start(version), redis_servers.start(version)
    fill(source)
    snapshot = back_up(vault, source)
    with target.client(3) as client:
        client.set("session:5", "somebody else's")
    before = contents(target)

    with pytest.raises(SettingsError, match="1 in database 3") as refused:
        restore_redis(vault, snapshot, target.server, installed=PROGRAMS)
    assert contents(target) == before
    assert FLAG in refused.value.hint
    assert "session:5" not in str(refused.value)

    report = restore_redis(vault, snapshot, target.server, installed=PROGRAMS, overwrite=True)
    assert same(contents(source), contents(target))
    assert report.overwritten == 1


@pytest.mark.parametrize("version", VERSIONS)
def test_repeating_a_restore_that_was_ended_midway_finishes_it(
    version: str, redis_servers: RedisServers, vault: Vault
) -> None:
    source, target = redis_servers.start(version), redis_servers.start(version)
    fill(source)
    snapshot = back_up(vault, source)
    restore_redis(vault, snapshot, target.server, installed=PROGRAMS)
    with target.client(3) as client:
        for number in range(100, 300):
            client.delete(f"session:{number}")

    report = restore_redis(vault, snapshot, target.server, installed=PROGRAMS)

    assert same(contents(source), contents(target))
    assert report.restored == 200
    assert report.there_already == sum(place[0] >= 0 for place in contents(source)) - 200


@pytest.mark.parametrize("policy", ["noeviction", "allkeys-lru"])
def test_a_target_without_room_is_refused_before_anything_is_written(
    policy: str, redis_servers: RedisServers, vault: Vault
) -> None:
    source = redis_servers.start("redis-8.2")
    target = redis_servers.start("redis-8.2", maxmemory="3mb", maxmemory_policy=policy)
    fill(source)
    snapshot = back_up(vault, source)

    with pytest.raises(NotReady, match="maxmemory") as refused:
        restore_redis(vault, snapshot, target.server, installed=PROGRAMS)

    assert policy in refused.value.message
    assert contents(target) == {}


@pytest.mark.parametrize("policy", ["noeviction", "allkeys-lru"])
def test_a_target_that_fills_up_meanwhile_is_not_called_restored(
    policy: str, redis_servers: RedisServers, vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = redis_servers.start("redis-8.2")
    target = redis_servers.start("redis-8.2", maxmemory="3mb", maxmemory_policy=policy)
    fill(source)
    snapshot = back_up(vault, source)
    monkeypatch.setattr("lifeboat.redis_source.restore._check_room", lambda *_, **__: ())

    with pytest.raises((RestoreFailed, LifeboatError), match="maxmemory"):
        restore_redis(vault, snapshot, target.server, installed=PROGRAMS)

    with target.client() as client:
        client.config_set("maxmemory", 0)
    restore_redis(vault, snapshot, target.server, installed=PROGRAMS)
    assert same(contents(source), contents(target))


def test_a_target_with_too_few_databases_and_a_replica_are_refused(redis_servers: RedisServers, vault: Vault) -> None:
    source, small = redis_servers.start("redis-8.2"), redis_servers.start("redis-8.2", databases="4")
    fill(source)
    snapshot = back_up(vault, source)

    with pytest.raises(NotReady, match="no such database"):
        restore_redis(vault, snapshot, small.server, installed=PROGRAMS)
    with small.client() as client:
        client.replicaof("127.0.0.1", 1)
    with pytest.raises(NotReady, match="replica"):
        restore_redis(vault, snapshot, small.server, installed=PROGRAMS)


def test_keys_whose_time_is_over_stay_away(redis_servers: RedisServers, vault: Vault) -> None:
    source, target = redis_servers.start("redis-8.2"), redis_servers.start("redis-8.2")
    with source.client() as client:
        client.set("over", "soon", px=700)
        client.set("stays", "here")
    snapshot = back_up(vault, source)
    import time

    time.sleep(0.9)

    report = restore_redis(vault, snapshot, target.server, installed=PROGRAMS)

    assert (report.restored, report.expired) == (1, 1)
    with target.client() as client:
        assert client.keys() == [b"stays"]
    assert json.dumps(report.seconds)


@pytest.mark.parametrize("version", ["redis-6.2", "redis-8.2", "valkey-9.1"])
def test_a_user_who_may_not_restore_is_told_the_rights_of_a_restore_and_they_are_enough(
    version: str, redis_servers: RedisServers, vault: Vault
) -> None:
    source, target = redis_servers.start(version), redis_servers.start(version)
    with source.client() as client:
        client.mset({"k1": "a", "other": "b"})
    snapshot = back_up(vault, source)
    rule = ACL_RULE_TO_RESTORE.replace("<user>", "less").replace("<password>", "secret")
    user = replace(target.server, user="less", password="secret")

    for less in (rule.replace(" ~* ", " ~k1* "), rule.replace(" +@write", ""), rule.replace(" +info", "")):
        with target.client() as client:
            client.execute_command("ACL", "DELUSER", "less")
            client.execute_command(*less.split())
        with pytest.raises(SourceRefused) as refused:
            restore_redis(vault, snapshot, user, installed=PROGRAMS)
        assert ACL_RULE_TO_RESTORE in refused.value.hint

    with target.client() as client:
        client.execute_command(*rule.split())
    assert restore_redis(vault, snapshot, user, installed=PROGRAMS).restored == 2
