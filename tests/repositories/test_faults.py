"""What every repository does when its store, its disk, the network or its own process fails."""

from __future__ import annotations

import multiprocessing
import os
import resource
import subprocess
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

import pytest

from demo.storage import AzuriteServer, S3Server, free_ports
from lifeboat.connections import Connection
from lifeboat.errors import (
    ObjectArchived,
    ObjectNotFound,
    RepositoryError,
    RepositoryFull,
    RepositoryRefused,
    RepositoryUnavailable,
)
from lifeboat.provider_clients import azure_client, s3_client
from lifeboat.repositories import local
from lifeboat.repositories.azure import AzureBlobRepository
from lifeboat.repositories.contract import Repository, ThawState
from lifeboat.repositories.local import LocalDiskRepository
from lifeboat.repositories.parts import AT_ONCE, MIB
from lifeboat.repositories.s3 import S3Repository
from tests.faulty_proxy import FaultyProxy, faulty_proxy
from tests.fixtures_storage import BUCKET, azure_client_of, s3_client_of
from tests.repositories.conftest import PART, azure_repository, s3_repository
from tests.repositories.test_contract import SEVERAL_PARTS, in_chunks, keys, read, some_bytes

pytestmark = pytest.mark.slow

Server = S3Server | AzuriteServer


@dataclass(frozen=True)
class Store:
    """A prefix of a store on the network, to be reached on its own port or on another one."""

    server: Server
    prefix: str

    def repository(self, port: int | None = None, *, attempts: int = 1, key: str | None = None) -> Repository:
        """A repository there, whose client tries a request so many times."""
        server = replace(self.server, port=port or self.server.port)
        if isinstance(server, S3Server):
            return s3_repository(s3_client_of(server, secret=key, attempts=attempts), self.prefix)
        return azure_repository(azure_client_of(server, key=key, attempts=attempts), self.prefix)

    def unfinished(self) -> list[str]:
        """Uploads to S3 that wait for their end, and take room; in Azure, what waits too long goes by itself."""
        if isinstance(self.server, AzuriteServer):
            return []
        found = s3_client_of(self.server).list_multipart_uploads(Bucket=BUCKET, Prefix=self.prefix)
        return [upload["Key"] for upload in found.get("Uploads", [])]


@pytest.fixture(params=["s3_store", "azurite"])
def store(request: pytest.FixtureRequest) -> Store:
    """SeaweedFS and Azurite in turn."""
    return Store(request.getfixturevalue(request.param), f"test/{uuid.uuid4().hex}")


@pytest.fixture
def network(store: Store) -> Iterator[FaultyProxy]:
    """The way to the store, that can be made to fail."""
    with faulty_proxy(store.server.port) as proxy:
        yield proxy


OPERATIONS: dict[str, Callable[[Repository], object]] = {
    "put": lambda repository: repository.put("a", [b"x"]),
    "put several parts": lambda repository: repository.put("a", in_chunks(bytes(SEVERAL_PARTS))),
    "get": lambda repository: list(repository.get("a")),
    "list": lambda repository: keys(repository),
    "describe": lambda repository: repository.describe("a"),
    "copy": lambda repository: repository.copy("a", "b"),
    "delete": lambda repository: repository.delete("a"),
    "thaw": lambda repository: repository.thaw("a", days=1),
    "probe": lambda repository: repository.honours_create_only("a"),
}
each_operation = pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)


# ---- stores that do not answer, or refuse ---------------------------------------------------------------------------


@each_operation
def test_a_closed_port_is_a_transient_error_that_names_the_repository_and_the_endpoint(store: Store, operation):
    (port,) = free_ports(1)
    repository = store.repository(port, attempts=2)

    with pytest.raises(RepositoryUnavailable) as raised:
        operation(repository)

    assert raised.value.transient
    assert f" {repository.name} ({repository.url})" in raised.value.message
    assert f"127.0.0.1:{port}" in raised.value.message


@pytest.mark.parametrize("kind", [S3Server, AzuriteServer], ids=["s3", "azure"])
def test_the_clients_of_the_platform_give_up_a_closed_port(kind: type[Server]):
    with pytest.raises(RepositoryUnavailable):
        keys(platform_repository(kind(free_ports(1)[0])))


@each_operation
def test_wrong_credentials_are_refused_for_good_and_stay_secret(store: Store, operation):
    secret = "d3Jvbmcgc2VjcmV0IGtleSBvZiBhIHJlcG9zaXRvcnk="
    repository = store.repository(key=secret)

    with pytest.raises(RepositoryRefused) as raised:
        operation(repository)

    assert not raised.value.transient
    assert repository.name in raised.value.message
    assert "key" in raised.value.hint
    assert secret not in "".join(traceback.format_exception(raised.value))


# SeaweedFS makes a bucket that is missing.
@each_operation
@pytest.mark.parametrize("server", ["ministack", "azurite"])
def test_a_bucket_that_does_not_exist_is_named_and_no_retry_is_worthwhile(request, server: str, operation):
    repository = elsewhere(request.getfixturevalue(server), "not-there")

    with pytest.raises(RepositoryRefused, match=r"not-there.*there is no such (bucket|container)") as raised:
        operation(repository)

    assert not raised.value.transient
    assert repository.name in raised.value.message
    assert "Create it" in raised.value.hint


# ---- slow networks --------------------------------------------------------------------------------------------------


def test_a_slow_store_gets_the_whole_stream(store: Store, network: FaultyProxy):
    data = some_bytes(SEVERAL_PARTS)
    network.slow(4 * MIB)

    store.repository(network.port).put("a", in_chunks(data))

    assert read(store.repository(), "a") == data


def test_a_stalled_store_holds_the_stream_back(store: Store, network: FaultyProxy):
    data, taken = some_bytes(10 * PART), 0

    def stream() -> Iterator[bytes]:
        nonlocal taken
        for chunk in in_chunks(data, MIB):
            taken += len(chunk)
            yield chunk

    def watch() -> int:
        time.sleep(1)
        while_stalled = taken
        network.heal()
        return while_stalled

    repository = store.repository(network.port, attempts=3)
    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch)
        repository.put("a", after(stream(), PART + MIB, network.stall))

    # The first part may have been sent before; another may be on its way into the buffer.
    assert AT_ONCE * PART < watching.result() <= (AT_ONCE + 3) * PART < len(data)
    assert read(store.repository(), "a") == data


# ---- dropped connections --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [PART - 1, SEVERAL_PARTS], ids=["one part", "several parts"])
def test_a_connection_dropped_once_in_a_put_does_no_harm(store: Store, network: FaultyProxy, size: int):
    data = some_bytes(size)
    network.drop(sent=2 * MIB, times=1)

    store.repository(network.port, attempts=3).put("a", in_chunks(data))

    assert network.dropped == 1
    assert read(store.repository(), "a") == data
    assert store.unfinished() == []


@pytest.mark.parametrize("size", [PART - 1, SEVERAL_PARTS], ids=["one part", "several parts"])
def test_bytes_altered_on_the_way_are_refused_by_the_store_and_nothing_is_left(
    store: Store, network: FaultyProxy, size: int
):
    data = some_bytes(size - 30_000) + b"as it was sent! " * 2000
    network.alter(b"as it was sent!", b"as it was heard")
    repository = store.repository(network.port)

    with pytest.raises(RepositoryError, match="damaged"):
        repository.put("a", in_chunks(data))

    assert network.altered > 0
    assert keys(store.repository()) == []
    assert store.unfinished() == []
    network.heal()
    repository.put("a", in_chunks(data))
    assert read(repository, "a") == data


@pytest.mark.parametrize("size", [PART - 1, SEVERAL_PARTS], ids=["one part", "several parts"])
def test_connections_dropped_for_ever_leave_nothing_of_a_put(store: Store, network: FaultyProxy, size: int):
    data = some_bytes(size)
    network.drop(sent=2 * MIB)

    with pytest.raises(RepositoryUnavailable, match="Cannot put a in"):
        store.repository(network.port, attempts=2).put("a", in_chunks(data))

    network.heal()
    assert network.dropped >= 2
    assert_absent(store.repository(), "a")
    assert store.unfinished() == []
    store.repository(network.port).put("a", in_chunks(data))
    assert read(store.repository(), "a") == data


def test_a_network_that_goes_away_for_good_leaves_no_object_and_says_what_remains(store: Store, network: FaultyProxy):
    repository = store.repository(network.port)
    data = some_bytes(SEVERAL_PARTS)

    with pytest.raises(RepositoryUnavailable) as raised:
        repository.put("a", after(in_chunks(data), PART + MIB, network.refuse))

    network.heal()
    assert_absent(store.repository(), "a")
    noted = [note for note in getattr(raised.value, "__notes__", []) if "An unfinished upload remains" in note]
    assert bool(noted) is isinstance(store.server, S3Server)  # what remains in Azure goes by itself
    repository.put("a", in_chunks(data))
    assert read(repository, "a") == data


def test_a_connection_dropped_once_in_a_get_does_no_harm(store: Store, network: FaultyProxy):
    data = some_bytes(SEVERAL_PARTS)
    store.repository().put("a", in_chunks(data))
    network.drop(received=3 * MIB, times=1)

    assert read(store.repository(network.port, attempts=3), "a") == data
    assert network.dropped == 1


def test_connections_dropped_for_ever_in_a_get_never_give_wrong_bytes(store: Store, network: FaultyProxy):
    data = some_bytes(SEVERAL_PARTS)
    store.repository().put("a", in_chunks(data))
    network.drop(received=1 * MIB)
    given: list[bytes] = []

    with pytest.raises(RepositoryUnavailable, match="Cannot read a in") as raised:
        collect(given, store.repository(network.port).get("a"))

    assert raised.value.transient
    assert sum(map(len, given)) < len(data)
    assert data.startswith(b"".join(given))


# ---- disks ----------------------------------------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A disk of 8 MiB."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@contextmanager
def small_files(_: Path) -> Iterator[None]:
    """Files of 8 MiB at most, which any user may ask for."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8 * MIB, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def without_unnamed_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_UNNAMED", Path("/nowhere"))


LIMITS = [small_files, small_disk] if os.geteuid() == 0 else [small_files]


@pytest.mark.parametrize("as_nfs", [False, True], ids=["unnamed files", "as NFS"])
@pytest.mark.parametrize("limit", LIMITS)
def test_a_full_disk_is_named_with_its_remedy_and_nothing_is_left(tmp_path: Path, monkeypatch, limit, as_nfs: bool):
    if as_nfs:
        without_unnamed_files(monkeypatch)
    with limit(tmp_path):
        repository = LocalDiskRepository(tmp_path / "repository", "local")
        repository.put("a/small", [b"x"])
        before = files_below(tmp_path), repository.free_bytes() // MIB

        with pytest.raises(RepositoryFull, match=f"a/large in local .*{tmp_path}") as raised:
            repository.put("a/large", in_chunks(bytes(9 * MIB)))

        assert "Make room on the disk" in raised.value.hint
        assert not raised.value.transient
        assert files_below(tmp_path) == before[0]
        assert repository.free_bytes() // MIB == before[1] or limit is small_files  # others use that disk too
        repository.put("a/large", [b"y"])
        assert keys(repository) == ["a/large", "a/small"]


# ---- writers that are killed ----------------------------------------------------------------------------------------


def local_as_nfs(folder: Path, name: str) -> Repository:
    """For a process of its own, whose modules may be changed."""
    local._UNNAMED = Path("/nowhere")
    return LocalDiskRepository(folder, name)


def test_a_killed_writer_leaves_no_object_in_a_store(store: Store):
    kill_midway(Store.repository, store)

    repository = store.repository()
    assert_absent(repository, "a/b")
    data = some_bytes(
        SEVERAL_PARTS
    )  # Azurite takes blocks without a list for an object when the next put is in one part
    repository.put("a/b", in_chunks(data))
    assert read(repository, "a/b") == data
    assert keys(repository) == ["a/b"]


@pytest.mark.parametrize(
    ("make", "left"), [(LocalDiskRepository, 0), (local_as_nfs, 1)], ids=["unnamed files", "as NFS"]
)
def test_a_killed_writer_leaves_no_object_on_a_disk(tmp_path: Path, make, left: int):
    kill_midway(make, tmp_path / "repository", "local")

    repository = LocalDiskRepository(tmp_path / "repository", "local")
    assert len(files_below(tmp_path)) == left
    assert_absent(repository, "a/b")
    repository.put("a/b", [b"the next"])
    assert read(repository, "a/b") == b"the next"
    assert keys(repository) == ["a/b"]


def kill_midway(make: Callable[..., Repository], *arguments: object) -> None:
    """Put to `a/b` in a process of its own, and kill it when all but the end has been sent."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=put_without_end, args=(theirs, make, *arguments), daemon=True)
    process.start()
    try:
        assert ours.poll(30)
    finally:
        process.kill()
        process.join()


def put_without_end(pipe: Pipe, make: Callable[..., Repository], *arguments: object) -> None:
    """What the process does."""

    def stream() -> Iterator[bytes]:
        yield from in_chunks(bytes(10 * PART))
        pipe.send("sent")
        threading.Event().wait()

    make(*arguments).put("a/b", stream())


# ---- archives -------------------------------------------------------------------------------------------------------

ARCHIVES = [("ministack", "GLACIER"), ("azurite", "Archive")]


@pytest.mark.parametrize(("server", "archive"), ARCHIVES, ids=["s3", "azure"])
def test_an_archived_object_must_be_thawed_before_it_can_be_read(request, server: str, archive: str):
    repository = Store(request.getfixturevalue(server), f"test/{uuid.uuid4().hex}").repository()
    data = some_bytes(SEVERAL_PARTS)
    repository.put("a", in_chunks(data), storage_class=archive)
    assert repository.describe("a").thaw_state is ThawState.ARCHIVED

    for refused in (lambda: read(repository, "a"), lambda: repository.copy("a", "b")):
        with pytest.raises(ObjectArchived, match=f" a in {repository.name} .*it is archived") as raised:
            refused()
        assert "Thaw it first" in raised.value.hint
        assert not raised.value.transient

    repository.thaw("a", days=1)
    deadline = time.monotonic() + 20
    while repository.thaw("a", days=1) is not ThawState.READABLE:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert read(repository, "a") == data


# ---- helpers --------------------------------------------------------------------------------------------------------


def after(chunks: Iterable[bytes], size: int, act: Callable[[], None]) -> Iterator[bytes]:
    """The chunks; as soon as so many bytes have been taken, `act` is called."""
    taken = 0
    for chunk in chunks:
        yield chunk
        if taken < size <= taken + len(chunk):
            act()
        taken += len(chunk)


def platform_repository(server: Server) -> Repository:
    """A repository whose client is made as for `platform.yaml`."""
    details = server.connection
    kind = details.pop("conn_type")
    connection = Connection("offsite", kind, **details)
    if isinstance(server, S3Server):
        return S3Repository(s3_client(connection), BUCKET, "", "offsite")
    return AzureBlobRepository(azure_client(connection).get_container_client(BUCKET), "", "offsite")


def elsewhere(server: Server, bucket: str) -> Repository:
    """A repository in another bucket or container."""
    if isinstance(server, S3Server):
        return S3Repository(s3_client_of(server), bucket, "", "offsite")
    return AzureBlobRepository(azure_client_of(server).get_container_client(bucket), "", "offsite")


def collect(into: list[bytes], chunks: Iterable[bytes]) -> None:
    for chunk in chunks:
        into.append(chunk)


def assert_absent(repository: Repository, key: str) -> None:
    assert keys(repository) == []
    with pytest.raises(ObjectNotFound):
        repository.describe(key)
    with pytest.raises(ObjectNotFound):
        read(repository, key)


def files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
