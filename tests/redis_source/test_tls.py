"""Over TLS: a proxy that ends it stands before the server, as the wheels' servers are built without; and addresses."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from demo.storage import LOOPBACK
from lifeboat.assembly import redis_server
from lifeboat.connections import parse_connection
from lifeboat.errors import SettingsError, SourceError, SourceRefused
from lifeboat.redis_source.backup import RedisSource, back_up_redis
from lifeboat.redis_source.connection import Tls
from lifeboat.redis_source.restore import restore_redis
from lifeboat.vault import Vault
from tests.fixtures_redis import PASSWORD, PROGRAMS, RedisServers, contents, fill, same

NOW = datetime(2026, 11, 23, 2, 30, tzinfo=UTC)


@dataclass(frozen=True)
class Certificates:
    """An authority's certificate, and a pair for 127.0.0.1 that it has signed."""

    ca: Path
    certificate: Path
    key: Path


USES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)


def make_certificates(folder: Path) -> Certificates:
    """Of an authority and a server, with all that RFC 5280 wants: Python 3.13 and later insist on it."""
    folder.mkdir()
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test CA")])
    now = datetime.now(UTC)

    def builder(subject: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        made = x509.CertificateBuilder().subject_name(subject).issuer_name(name).public_key(public)
        made = made.serial_number(x509.random_serial_number())
        return made.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=1))

    ca = builder(name, ca_key.public_key()).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    ca = ca.add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
    ca = ca.add_extension(x509.KeyUsage(**dict.fromkeys(USES, False) | {"key_cert_sign": True}), critical=True)
    addresses = x509.SubjectAlternativeName([x509.IPAddress(ip_address(LOOPBACK))])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, LOOPBACK)])
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    leaf = builder(subject, key.public_key()).add_extension(addresses, critical=False)
    leaf = leaf.add_extension(issuer, critical=False)
    found = Certificates(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    pem = serialization.Encoding.PEM
    found.ca.write_bytes(ca.sign(ca_key, hashes.SHA256()).public_bytes(pem))
    found.certificate.write_bytes(leaf.sign(ca_key, hashes.SHA256()).public_bytes(pem))
    private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    found.key.write_bytes(key.private_bytes(pem, *private))
    return found


@contextmanager
def tls_in_front_of(port: int, certificates: Certificates, *, clients: bool = False) -> Iterator[int]:
    """A port on which TLS is spoken; with `clients`, only to those who show a certificate of the same authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.certificate, certificates.key)
    if clients:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificates.ca)
    listener = socket.create_server((LOOPBACK, 0))

    def serve(client: socket.socket) -> None:
        with (
            suppress(OSError),
            context.wrap_socket(client, server_side=True) as inner,
            socket.create_connection((LOOPBACK, port)) as server,
        ):
            threading.Thread(target=move, args=(inner, server), daemon=True).start()
            move(server, inner)

    def move(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@pytest.mark.parametrize("clients", [False, True], ids=["", "with a client's certificate"])
def test_an_acl_user_backs_up_and_restores_over_tls(
    clients: bool, vault: Vault, redis_servers: RedisServers, tmp_path: Path
) -> None:
    certificates = make_certificates(tmp_path / "tls")
    source, target = redis_servers.start("redis-8.2"), redis_servers.start("redis-8.2")
    fill(source)
    for running in (source, target):
        with running.client() as client:
            client.execute_command("ACL", "SETUSER", "lifeboat", "on", ">secret", "~*", "+@all")
    shown = (str(certificates.certificate), str(certificates.key)) if clients else (None, None)
    tls = Tls(str(certificates.ca), *shown)
    with (
        tls_in_front_of(source.server.port, certificates, clients=clients) as source_port,
        tls_in_front_of(target.server.port, certificates, clients=clients) as target_port,
    ):
        server = replace(source.server, port=source_port, user="lifeboat", password="secret", tls=tls)
        snapshot = back_up_redis(vault, RedisSource("sessions", server), began=NOW).snapshot
        restore_redis(vault, snapshot, replace(server, port=target_port), installed=PROGRAMS)

        if clients:
            with pytest.raises(SourceError):
                back_up_redis(vault, RedisSource("s", replace(server, tls=Tls(tls.ca))), began=NOW)

    assert same(contents(source), contents(target))


def test_a_server_that_is_not_trusted_is_refused_before_the_password_is_sent(
    vault: Vault, redis_servers: RedisServers, tmp_path: Path
) -> None:
    certificates, others = make_certificates(tmp_path / "tls"), make_certificates(tmp_path / "others")
    running = redis_servers.start("redis-8.2")
    with tls_in_front_of(running.server.port, certificates) as port:
        server = replace(running.server, port=port)

        for tls, host in ((Tls(str(others.ca)), LOOPBACK), (Tls(str(certificates.ca)), "localhost")):
            with pytest.raises(SourceRefused, match="not trusted") as refused:
                back_up_redis(vault, RedisSource("s", replace(server, tls=tls, host=host)), began=NOW)
            assert not refused.value.transient
        unchecked = replace(server, tls=Tls(verify=False))
        assert back_up_redis(vault, RedisSource("s", unchecked), began=NOW).snapshot


def test_connections_are_read_as_airflow_writes_them() -> None:
    plain = redis_server(parse_connection("r", "redis://me:p%40ss@cache.example:6380/2"))
    extra = {"ssl": True, "ssl_cert_reqs": "none", "ssl_ca_certs": "/ca.pem", "db": 3}
    secure = redis_server(
        parse_connection("r", json.dumps({"conn_type": "redis", "host": "h", "password": "x", "extra": extra}))
    )
    scheme = redis_server(parse_connection("r", "rediss://:x@h"))

    assert (plain.host, plain.port, plain.user, plain.password, plain.tls) == (
        "cache.example",
        6380,
        "me",
        "p@ss",
        None,
    )
    assert secure.tls == Tls("/ca.pem", verify=False)
    assert scheme.tls == Tls()
    assert PASSWORD not in repr(replace(plain, password=PASSWORD))
    for wrong in ("postgres://h", "redis://", "redis://h?sentinel=x"):
        with pytest.raises(SettingsError):
            redis_server(parse_connection("r", wrong))
