"""platform.yaml as it is, or, while it is wrong, as it was last when it was right.

So a mistake in it hides no DAG, keeps no backup and no recovery from going on, and leaves nobody untold. The process
beside the scheduler keeps the last good text (`platform_watch`); there are no secrets in it.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

from airflow.sdk import Variable

from lifeboat.errors import SettingsError
from lifeboat.settings import Platform, load_platform, parse_platform, platform_path

log = logging.getLogger(__name__)

VARIABLE = "lifeboat_last_good_platform"
"""The variable of Airflow that keeps it."""


@dataclass(frozen=True)
class Loaded:
    """The platform, and what is wrong with its file: then it is the platform as it was before that."""

    platform: Platform
    fault: SettingsError | None = None

    def remarks(self) -> tuple[str, ...]:
        """What makes everything that is done by it degraded."""
        if self.fault is None:
            return ()
        return (f"{self.platform.file} cannot be used, so the settings are those of before. {self.fault}",)


def load() -> Loaded:
    """What platform.yaml says, or has said. Raises `SettingsError` when it is wrong and was never known to be right."""
    file = platform_path(os.environ)
    try:
        return Loaded(load_platform(file))
    except SettingsError as error:
        platform = _last_good()
        if platform is None:
            raise
        log.warning("%s\nUntil it is corrected, the settings are those of before.", error)
        return Loaded(platform, error)


def _last_good() -> Platform | None:
    try:
        text = Variable.get(VARIABLE, None)
        return parse_platform(text, platform_path(os.environ)) if text else None
    except Exception:
        # Whatever it is: what is wrong with the file matters more, and is what people must see.
        log.exception("The last good text of platform.yaml cannot be had.")
        return None
