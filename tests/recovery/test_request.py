"""Wrong combinations of what is asked for are refused at once, all together, each with its remedy."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lifeboat.errors import SettingsError
from lifeboat.recovery.model import Mode, Point, Request
from lifeboat.recovery.request import check_request, sources_of
from lifeboat.settings import Platform, load_platform
from tests.recovery.places import YAML

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
LABEL = "receivables/daily/20261123T020000Z-6f3a9c21"


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    file = tmp_path_factory.mktemp("platform") / "platform.yaml"
    file.write_text(YAML.format(folder="/srv/sme"))
    return load_platform(file)


def asked(**fields: object) -> Request:
    fine = {"mode": Mode.RECOVER, "began": NOW - timedelta(hours=1), "title": "The server is gone"}
    return Request(**{**fine, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "fine",
    [
        asked(),
        asked(mode=Mode.ASSESS, began=NOW + timedelta(seconds=90)),
        asked(mode=Mode.PRACTICE, point=Point.LATEST, components=("uploads", "receivables"), repository="far"),
        asked(point=Point.AS_OF, as_of=NOW - timedelta(days=3)),
        asked(point=Point.SNAPSHOTS, snapshots=(LABEL, "uploads/weekly/20261122T030000Z-00000000")),
        asked(targets={"receivables": "new_db", "uploads": "/srv/new/uploads", "sessions": "new_redis"}),
        asked(drop_replaced=True, tell=("ada@example.com",), reason="the disk failed"),
    ],
    ids=["default", "a clock ahead", "practice", "as of", "snapshots", "targets", "the rest"],
)
def test_what_makes_sense_is_accepted(platform: Platform, fine: Request) -> None:
    check_request(platform, fine, NOW)


@pytest.mark.parametrize(
    ("wrong", "message", "remedy"),
    [
        ({"began": NOW + timedelta(hours=1)}, "began: the incident cannot have begun in the future", "at which the"),
        ({"began": datetime(2026, 11, 23)}, "began: 2026-11-23 00:00:00 says no time zone", "Write it as"),  # noqa: DTZ001
        ({"title": " "}, "title: it is empty", "in a few words"),
        ({"title": "one\ntwo"}, "title: it is too long, or more than a line", "one line of at most 120"),
        ({"title": "x" * 121}, "title: it is too long", "one line of at most 120"),
        ({"components": ("uplaods",)}, "components: platform.yaml names no source 'uplaods'", "It names: receivables,"),
        ({"components": ("uploads", "uploads")}, "components: 'uploads' is named twice", "each source once"),
        ({"tell": ("a@sme.example", "a@sme.example")}, "tell: 'a@sme.example' is named twice", "each once"),
        ({"point": Point.AS_OF}, "as_of: the time is missing", "Give the time"),
        (
            {"point": Point.AS_OF, "as_of": NOW + timedelta(days=1)},
            "as_of: 2026-11-24 12:00 UTC is in the fut",
            "has passed",
        ),
        ({"point": Point.AS_OF, "as_of": datetime(2026, 11, 1)}, "says no time zone", "Write it as"),  # noqa: DTZ001
        (
            {"as_of": NOW - timedelta(days=1)},
            "as_of: a time is given, and the recovery point is 'latest proven'",
            "leave",
        ),
        ({"point": Point.SNAPSHOTS}, "snapshots: none is named", "Name at least one"),
        (
            {"snapshots": (LABEL,)},
            "snapshots: some are named, and the recovery point is 'latest proven'",
            "leave them out",
        ),
        (
            {"point": Point.SNAPSHOTS, "snapshots": ("receivables/hourly/x",)},
            "is no snapshot's label",
            "source/tier/id",
        ),
        ({"point": Point.SNAPSHOTS, "snapshots": ("receivables/daily/x",)}, "'x' is not a snapshot id", "looks like"),
        (
            {"point": Point.SNAPSHOTS, "snapshots": (LABEL.replace("receivables", "orders"),)},
            "is of no source that platform.yaml names",
            "receivables, uploads",
        ),
        (
            {"point": Point.SNAPSHOTS, "snapshots": (LABEL,), "components": ("uploads",)},
            "receivables is not among the components",
            "Add it there",
        ),
        (
            {"point": Point.SNAPSHOTS, "snapshots": (LABEL, LABEL.replace("6f", "00"))},
            "two of receivables are named",
            "one snapshot of each",
        ),
        ({"repository": "s3"}, "repository: platform.yaml names no repository 's3'", "It names: near, far"),
        ({"targets": {"orders": "db"}}, "targets: platform.yaml names no source 'orders'", "It names:"),
        ({"targets": {"uploads": "new/uploads"}}, "'new/uploads', given for uploads, is no absolute folder", "such as"),
        ({"targets": {"uploads": "/"}}, "is no absolute folder", "such as"),
        ({"targets": {"uploads": "/srv/../etc"}}, "is no absolute folder", "such as"),
        (
            {"targets": {"uploads": "/srv/sme/near/x"}},
            "and the repository near are one within the other",
            "another folder",
        ),
        (
            {"targets": {"configuration": "/srv/sme/far"}},
            "and the repository far are one within the other",
            "another folder",
        ),
        (
            {"targets": {"receivables": "postgres://u:secret@h/d"}},
            "given for receivables is no connection's id",
            "such as",
        ),
        (
            {"targets": {"uploads": "/x"}, "components": ("sessions",)},
            "uploads is not among the components",
            "leave its",
        ),
        (
            {"targets": {"uploads": "/srv/x", "configuration": "/srv/x"}},
            "two sources have the target '/srv/x'",
            "of its own",
        ),
        ({"mode": Mode.PRACTICE, "targets": {"uploads": "/x"}}, "a practice has scratch targets", "Leave them out"),
        (
            {"mode": Mode.PRACTICE, "drop_replaced": True},
            "nothing is replaced in the mode 'practice'",
            "'recover' only",
        ),
        ({"mode": Mode.ASSESS, "drop_replaced": True}, "nothing is replaced in the mode 'assess'", "'recover' only"),
        ({"services": ("web",)}, "names no service 'web' that can be started alone", "its commands are for all"),
        ({"tell": ("ada",)}, "tell: 'ada' is no mail address", "Give one address alone"),
        ({"tell": ("a@b.c\nBcc: x@y.z",)}, "is no mail address", "Give one address alone"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_what_makes_no_sense_is_refused(
    platform: Platform, wrong: dict[str, object], message: str, remedy: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        check_request(platform, asked(**wrong), NOW)

    assert "The request is wrong in one place:" in refused.value.message
    assert message in refused.value.message
    assert remedy in refused.value.message
    assert "secret" not in str(refused.value)


def test_everything_wrong_is_told_at_once(platform: Platform) -> None:
    wrong = asked(
        title="", began=NOW + timedelta(days=1), components=("x",), repository="y", tell=("z",), drop_replaced=False
    )

    with pytest.raises(SettingsError, match="wrong in 5 places") as refused:
        check_request(platform, wrong, NOW)

    assert refused.value.message.count("\n      ") == 5


def test_services_are_those_that_platform_yaml_names(tmp_path: Path) -> None:
    file = tmp_path / "platform.yaml"
    by_hand = "  stop: [['true']]\n  start: [['true']]\n"
    file.write_text(YAML.format(folder="/srv/sme").replace(by_hand, "  preset: systemd\n  services: [web, worker]\n"))
    platform = load_platform(file)

    check_request(platform, asked(services=("web",)), NOW)

    with pytest.raises(SettingsError, match="It names: web, worker"):
        check_request(platform, asked(services=("wep",)), NOW)


def test_no_components_mean_all_in_the_order_of_the_file(platform: Platform) -> None:
    assert sources_of(platform, asked()) == ("receivables", "uploads", "configuration", "sessions")
    assert sources_of(platform, asked(components=("sessions", "uploads"))) == ("uploads", "sessions")


def test_a_folder_that_holds_backups_is_refused_for_a_tree_and_not_for_configuration(platform: Platform) -> None:
    check_request(platform, asked(targets={"configuration": "/srv/sme"}), NOW)

    with pytest.raises(SettingsError, match="wrong in 2 places"):
        check_request(platform, asked(targets={"uploads": "/srv/sme"}), NOW)
