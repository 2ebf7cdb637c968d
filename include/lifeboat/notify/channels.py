"""The ways a message takes: mail, chat and pagers through Apprise, webhooks; and the ping that tells of being alive.

Connections are in Airflow's own form, as its providers for SMTP, Apprise and HTTP read them. A channel either has its
message taken or raises `NotTaken`, whose text names the channel and never an address that is itself a secret.
"""

from __future__ import annotations

import json
import smtplib
import ssl
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Any, Protocol
from urllib.parse import urlsplit

from lifeboat.connections import Connection, variable_of
from lifeboat.errors import LifeboatError, SettingsError
from lifeboat.notify.alert import Event
from lifeboat.notify.asking import SECONDS, ask, headers_of, is_distrusted, not_taken, reason_of, url_of
from lifeboat.notify.rendering import Message


class Channel(Protocol):
    """One way to people. May be used from several threads."""

    @property
    def name(self) -> str:
        """What it is called in messages and records."""

    def send(self, message: Message, /) -> None:
        """Hand a message over. Raises `NotTaken` or `SettingsError`; then the message may be sent again."""


@dataclass(frozen=True)
class Mail:
    """Mail through a connection of type `smtp`; with `hidden`, who gets it does not see who else does."""

    connection: Connection
    to: tuple[str, ...]
    sender: str
    name: str = "email"
    hidden: bool = False

    def send(self, message: Message) -> None:
        mail = EmailMessage()
        mail["Subject"] = message.subject
        mail["From"] = self.sender
        mail["To"] = "undisclosed-recipients:;" if self.hidden else ", ".join(self.to)
        mail["Date"] = format_datetime(message.alert.at)
        # The same for the same event: servers that know of it show what comes twice only once.
        mail["Message-ID"] = f"<{message.alert.key}@{self.sender.rpartition('@')[2].strip('<> ')}>"
        mail["Auto-Submitted"] = "auto-generated"
        mail.set_content(message.text)
        if message.html:
            mail.add_alternative(message.html, subtype="html")
        try:
            with self._server() as server:
                refused = server.send_message(mail, to_addrs=list(self.to))
        except (smtplib.SMTPException, OSError) as error:
            raise not_taken(self.name, self.connection, _smtp_reason(error), _permanent(error)) from None
        if refused:
            reason = f"{len(refused)} of {len(self.to)} addresses were refused"
            raise not_taken(self.name, self.connection, reason, permanent=True)

    def _server(self) -> smtplib.SMTP:
        extra, host = self.connection.extra, self.connection.host or ""
        port, seconds = self.connection.port or 0, float(extra.get("timeout") or SECONDS)
        # "none" trusts any certificate, as it does for Airflow's own hook.
        trust = ssl.create_default_context()
        if extra.get("ssl_context") == "none":
            trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
        if not _is_true(extra.get("disable_ssl")):
            server: smtplib.SMTP = smtplib.SMTP_SSL(host, port, timeout=seconds, context=trust)
        else:
            server = smtplib.SMTP(host, port, timeout=seconds)
        try:
            if _is_true(extra.get("disable_ssl")) and not _is_true(extra.get("disable_tls")):
                server.starttls(context=trust)
            if self.connection.login and self.connection.password:
                server.login(self.connection.login, self.connection.password)
        except BaseException:
            server.close()
            raise
        return server


@dataclass(frozen=True)
class Chat:
    """Whatever Apprise speaks to: chats, pagers, phones; through a connection of type `apprise`."""

    connection: Connection

    @property
    def name(self) -> str:
        return self.connection.conn_id

    def send(self, message: Message) -> None:
        try:
            import apprise
        except ImportError:
            raise SettingsError(
                f"{self.name} needs the package apprise, which is not installed.",
                hint="Install requirements/restore.txt or requirements.txt.",
            ) from None
        services = apprise.Apprise()
        for path, tag in self._services():
            if not services.add(path, tag=tag):
                raise self._unusable("one of its addresses is none that Apprise knows")
        kind = _KINDS.get(message.alert.event, "info")
        if not services.notify(body=message.chat, title=message.subject, notify_type=apprise.NotifyType(kind)):
            schemes = ", ".join(sorted({urlsplit(path).scheme for path, _ in self._services()}))
            raise not_taken(self.name, self.connection, f"one of its services ({schemes}) did not take it")

    def _services(self) -> list[tuple[str, Any]]:
        config = self.connection.extra.get("config")
        try:
            parsed = json.loads(config) if isinstance(config, str) else config
            items = [parsed] if isinstance(parsed, dict) else list(parsed or ())
            services = [(str(item["path"]), item.get("tag")) for item in items]
        except (ValueError, TypeError, KeyError, AttributeError):
            services = []
        if not services:
            raise self._unusable("it has no addresses in its extra's `config`")
        return services

    def _unusable(self, reason: str) -> SettingsError:
        return SettingsError(
            f"{variable_of(self.name)} cannot be used: {reason}.",
            hint='Set it to {"conn_type": "apprise", "extra": {"config": [{"path": "slack://…"}]}}.',
        )


@dataclass(frozen=True)
class Webhook:
    """A JSON document by HTTP POST, through a connection of type `http`: host, login and password, headers as extra.

    A password without a login is sent as a bearer token.
    """

    connection: Connection

    @property
    def name(self) -> str:
        return self.connection.conn_id

    def send(self, message: Message) -> None:
        document = message.alert.record() | {"text": f"{message.subject}\n{message.chat}"}
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": message.alert.key,
            **headers_of(self.connection),
        }
        body = json.dumps(document, ensure_ascii=False).encode()
        ask(self.name, self.connection, url_of(self.connection), headers=headers, body=body)


@dataclass(frozen=True)
class Unusable:
    """A channel that cannot be made, so that the others still are."""

    name: str
    error: LifeboatError

    def send(self, _message: Message, /) -> None:
        raise self.error


def ping(connection: Connection, signal: str = "") -> None:
    """Tell a dead-man service, such as Healthchecks, of a run: "start", "fail", "log", or nothing for a success.

    The address is the connection's host, followed by its password, which keeps the secret part out of sight. Raises
    `NotTaken`, `SettingsError`.
    """
    url = url_of(connection).rstrip("/")
    if connection.password:
        url += f"/{connection.password}"
    ask(connection.conn_id, connection, f"{url}/{signal}" if signal else url)


def _smtp_reason(error: Exception) -> str:
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return "every address was refused"
    if isinstance(error, smtplib.SMTPResponseException):
        return f"it answered {error.smtp_code}"  # its text may repeat what was sent
    if isinstance(error, smtplib.SMTPNotSupportedError):
        return "it offers no STARTTLS, or no login; `disable_tls` in the connection's extra does without STARTTLS"
    if isinstance(error, smtplib.SMTPServerDisconnected):
        return reason_of(error.__context__) if isinstance(error.__context__, OSError) else "it hung up"
    return reason_of(error)


def _permanent(error: Exception) -> bool:
    if isinstance(error, smtplib.SMTPNotSupportedError) or is_distrusted(error):
        return True
    return isinstance(error, smtplib.SMTPResponseException) and 500 <= error.smtp_code < 600


def _is_true(value: Any) -> bool:
    return str(value or "").lower() in {"true", "1", "yes", "on"}


_KINDS = {Event.FAILED: "failure", Event.LATE: "failure", Event.UNDELIVERED: "warning", Event.DEGRADED: "warning",
          Event.INCIDENT: "warning", Event.SETTINGS: "warning", Event.RECOVERED: "success"}  # fmt: skip
