"""Every Monday: the best snapshot of the week that has ended, of every source, promoted into the tier `weekly`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import dag

from lifeboat_airflow.defaults import BACKFILL, DAG_ARGS, done_within, platform, sources_field
from lifeboat_airflow.operators.keeping import chosen_sources, promotion


@dag(
    schedule="0 5 * * 1",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    dagrun_timeout=timedelta(hours=24),
    deadline=done_within(timedelta(hours=12)),
    params={"sources": sources_field(platform(), None, "Whose snapshots to promote.")},
    tags=["lifeboat", "retention"],
    doc_md=f"""
### Weekly promotion

Every source: **promote** the newest proven snapshot of the week that has ended into the tier `weekly`, in every
repository that keeps it → **prune** what is promised no longer. Its candidate is restored and compared first, and the
next newest when that fails; `prove` in `platform.yaml` says where not. Weeks that were missed are caught up.

{BACKFILL}

**If this fails**

* `promote`: the week has **no snapshot that is good**, or none can be proven now; the log says of each why. What might
  still be promoted is kept until then. Find out why the backups or restore tests failed; after
  `python -m lifeboat accept <snapshot>` of a suspect one that is right, clear the task.
* `prune`: more would have gone at once than is believable, and nothing went; or a repository refused to delete. Look at
  `python -m lifeboat prune <source> --dry-run`.
""",
    **DAG_ARGS,
)
def weekly_promotion():
    promotion.partial(tier="weekly").expand(source=chosen_sources())


weekly_promotion()
