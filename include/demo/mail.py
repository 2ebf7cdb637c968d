"""A mail server for the demo that delivers to nobody: what it takes lies in a folder, one file a mail, to be read."""

from __future__ import annotations

import email.policy
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller

from demo.storage import LOOPBACK, free_ports


@contextmanager
def mail_catcher(folder: Path) -> Iterator[str]:
    """The server's address as a connection to it is written; mails become `1.txt`, `1.eml` and so on in `folder`."""
    folder.mkdir(parents=True)
    port = free_ports(1)[0]
    controller = Controller(_Catcher(folder), hostname=LOOPBACK, port=port)
    controller.start()
    try:
        yield f"smtp://{LOOPBACK}:{port}/?disable_ssl=true&disable_tls=true"
    finally:
        controller.stop()


class _Catcher:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count(1)

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        number = next(self._numbers)
        mail = email.message_from_bytes(envelope.content, EmailMessage, policy=email.policy.default)
        body = mail.get_body(("plain",))
        text = body.get_content() if body else ""
        (self._folder / f"{number}.eml").write_bytes(envelope.content)
        (self._folder / f"{number}.txt").write_text(f"To: {mail['To']}\nSubject: {mail['Subject']}\n\n{text}", "utf-8")
        return "250 OK"
