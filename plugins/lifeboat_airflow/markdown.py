"""Lists in the words of questions, which Airflow shows as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from lifeboat.postgres.rebuilding import NotRebuilt
from lifeboat.progress import count_text


def markdown_of(not_rebuilt: Sequence[NotRebuilt]) -> str:
    """What an incomplete restore lacks: a point each, with the server's answer and what would make it."""
    points = "".join(f"\n* {_plain(str(one))}\n  `{_plain(' '.join(one.statement.split()))}`" for one in not_rebuilt)
    return f"{count_text(len(not_rebuilt), 'object')} could not be rebuilt:\n{points}"


def _plain(text: str) -> str:
    """Names are whatever somebody has made them; none of them begins or ends anything here."""
    return text.replace("`", "'").replace("<", "&lt;").replace("\n", " ")
