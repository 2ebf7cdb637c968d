"""The live Airflow that every suite in this folder shares.

To write another one: put a file beside this, with `pytestmark = LIVE`, and take the fixture `live`. A DAG of the
project's that is missing goes into `PROJECT_DAGS`, one of the test's own into `dags/`; both change `DAGS`. The files
run one after the other in one process: leave running what you have found running, and look for the receivers' mails and
requests by the id of a run, since others send some too. Waiting costs nobody anything: other processes test meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.live.stand import Live, live_airflow


@pytest.fixture(scope="package")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A platform with every process of an Airflow, and receivers of mail and web requests."""
    with live_airflow(tmp_path_factory.mktemp("live")) as running:
        yield running
