"""`notify`: whom alerts reach, found out by sending one."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from lifeboat.assembly import channels_of, status_page_of
from lifeboat.cli.desk import Desk, EnvFileOption, PlatformOption, open_desk
from lifeboat.cli.exit_codes import DEGRADED, FAILED
from lifeboat.cli.output import remark, say
from lifeboat.connections import require_connection
from lifeboat.errors import LifeboatError, SettingsError
from lifeboat.notify.alert import Alert, Event
from lifeboat.notify.channels import Channel, Unusable, ping
from lifeboat.notify.rendering import check_templates
from lifeboat.notify.sending import deliver
from lifeboat.recovery.stakeholders import check_notices
from lifeboat.recovery.status_page import check


def notify(
    test: Annotated[bool, typer.Option("--test", help="Send a test message through every channel.")] = False,
    platform: PlatformOption = None,
    env_file: EnvFileOption = None,
) -> None:
    """List the channels to people that platform.yaml names, or send a test message through each.

    Dead-man services are sent a line for their log, which changes nothing about whether they wait. A status page is
    only asked whether it would take an update, and users get no mail.
    """
    desk = open_desk(platform, env_file)
    if desk.platform.notify is None:
        raise SettingsError(
            f"{desk.platform.place()} names nobody to be told.", hint="Add `notify:`; include/platform.yaml shows how."
        )
    channels = channels_of(desk.platform, desk.lookup)
    if not test:
        _list(desk, channels)
        return
    alert = Alert(Event.TEST, desk.platform.platform, datetime.now(UTC), notes=("Somebody is testing the alerts.",))
    check_templates(alert)
    check_notices()
    delivery = deliver(alert, channels, waits=(), report=remark)
    taken, failed = list(delivery.taken), dict(delivery.failed)
    for dag, conn_id in desk.platform.notify.dead_man.items():
        try:
            ping(require_connection(desk.lookup, conn_id, desk.platform.place("notify", "dead_man", dag)), "log")
            taken.append(conn_id)
        except LifeboatError as error:
            failed[conn_id] = error
    untried = _try_status_page(desk, taken, failed)
    for name in taken:
        say(f"{name}: taken")
    for name, reason in failed.items():
        say(f"{name}: FAILED. {reason}")
    if untried:
        say(f"{untried}: not tried, since everybody would see it")
    if failed:
        raise typer.Exit(DEGRADED if taken else FAILED)


def _try_status_page(desk: Desk, taken: list[str], failed: dict[str, LifeboatError]) -> str:
    """Ask a status page whether it would take an update; the name of one that cannot be asked."""
    settings = desk.platform.notify.status_page if desk.platform.notify else None
    if settings is None:
        return ""
    try:
        page = status_page_of(desk.platform, desk.lookup)
        if page is not None and not check(page):
            return page.name
        taken.append(settings.connection)
    except LifeboatError as error:
        failed[settings.connection] = error
    return ""


def _list(desk: Desk, channels: tuple[Channel, ...]) -> None:
    for channel in channels:
        say(f"{channel.name}: {channel.error.message if isinstance(channel, Unusable) else 'ready'}")
    assert desk.platform.notify is not None
    for dag, conn_id in desk.platform.notify.dead_man.items():
        say(f"{conn_id}: {'ready' if desk.lookup(conn_id) else 'no such connection'}, pinged by {dag}")
    remark("`lifeboat notify --test` sends a message through each.")
