"""Documents for people, made of a few kinds of parts: as Markdown, and as an HTML page that needs nothing else."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape

from lifeboat.errors import LifeboatError, RepositoryError
from lifeboat.vault import Vault

LONG_WORD = 24
"""Letters of a word that is broken rather than let a table grow out of its page, such as a snapshot's label."""


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the document's own. On paper it begins a `new_page` where it is told to."""

    level: int
    text: str
    new_page: bool = False


@dataclass(frozen=True)
class Paragraph:
    """A paragraph; `good` gives it weight, as good or as bad news."""

    text: str
    good: bool | None = None


@dataclass(frozen=True)
class Table:
    """A table. Headings that are all empty are not shown. A cell that begins "passed" or "FAILED" is coloured so."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Items:
    """A list of sentences."""

    texts: tuple[str, ...]


@dataclass(frozen=True)
class Code:
    """Lines to be typed or copied, exactly as they are."""

    text: str


Part = Heading | Paragraph | Table | Items | Code


def as_markdown(parts: Iterable[Part]) -> str:
    """The document as Markdown."""
    return "\n\n".join(_markdown(part) for part in parts) + "\n"


def as_text(parts: Iterable[Part]) -> str:
    """The same for who reads it as it is, such as in a mail: nothing is escaped."""
    return re.sub(r"\\([\\`*_<>\[\]|#&])", r"\1", as_markdown(parts))


def as_html(title: str, parts: Iterable[Part]) -> str:
    """The document as one page of HTML, its style within."""
    body = "\n".join(_html(part) for part in parts)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def store_document(vault: Vault, name: str, made: datetime, title: str, parts: Sequence[Part]) -> tuple[str, ...]:
    """Put a document below `reports/` of every repository that answers, as Markdown and as HTML; returns the two keys.

    Its key has the moment, the name and something random. Raises `RepositoryError` when no repository took it.
    """
    stem = f"reports/{made:%Y%m%dT%H%M%SZ}-{name}-{os.urandom(4).hex()}"
    documents = {f"{stem}.md": as_markdown(parts), f"{stem}.html": as_html(title, parts)}
    failures: list[LifeboatError] = []
    for member in vault.present:
        try:
            for key, text in documents.items():
                member.repository.put(key, [text.encode()])
        except RepositoryError as error:
            failures.append(error)
    if len(failures) == len(vault.present):
        raise failures[0] if failures else RepositoryError("No repository answers, so the report cannot be kept.")
    return tuple(documents)


# ---- how it looks ---------------------------------------------------------------------------------------------------


def _markdown(part: Part) -> str:
    if isinstance(part, Heading):
        return f"{'#' * part.level} {_plain(part.text)}"
    if isinstance(part, Paragraph):
        return _plain(part.text) if part.good is None else f"**{_plain(part.text)}**"
    if isinstance(part, Items):
        return "\n".join(f"- {_plain(text)}" for text in part.texts)
    if isinstance(part, Code):
        fence = "`" * max(3, 1 + max((len(ticks) for ticks in re.findall("`+", part.text)), default=0))
        return f"{fence}\n{part.text.rstrip()}\n{fence}"
    lines = [part.headings, tuple("---" for _ in part.headings), *part.rows]
    return "\n".join(f"| {' | '.join(cell if cell == '---' else _plain(cell) for cell in line)} |" for line in lines)


def _plain(text: str) -> str:
    """A text on one line that Markdown shows as it is."""
    return re.sub(r"([\\`*_<>\[\]|#&])", r"\\\1", " ".join(text.split()))


def _marked_up(text: str) -> str:
    """A text that HTML shows as it is, but for what stands between backticks: that is code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))


def _html(part: Part) -> str:
    if isinstance(part, Heading):
        kind = ' class="page"' if part.new_page else ""
        return f"<h{part.level}{kind}>{escape(part.text)}</h{part.level}>"
    if isinstance(part, Paragraph):
        kind = "" if part.good is None else f' class="{"good" if part.good else "bad"}"'
        return f"<p{kind}>{_marked_up(part.text)}</p>"
    if isinstance(part, Items):
        return f"<ul>\n{''.join(f'<li>{_marked_up(text)}</li>' for text in part.texts)}\n</ul>"
    if isinstance(part, Code):
        return f"<pre>{escape(part.text.rstrip())}</pre>"
    head = "".join(f"<th>{escape(heading)}</th>" for heading in part.headings)
    rows = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>\n" for row in part.rows)
    return f"<table>\n{f'<tr>{head}</tr>' if any(part.headings) else ''}\n{rows}</table>"


def _cell(text: str) -> str:
    kind = _KINDS.get(text.partition(":")[0], "")
    if any(len(word) > LONG_WORD for word in text.split()):
        kind += " long"
    return f'<td class="{kind.strip()}">{_marked_up(text)}</td>' if kind else f"<td>{_marked_up(text)}</td>"


_KINDS = dict.fromkeys(("passed", "met", "done"), "good") | dict.fromkeys(("FAILED", "MISSED", "failed"), "bad")

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#1b1b1b}"
    "table{border-collapse:collapse;margin:1em 0}th,td{text-align:left;vertical-align:top;padding:.25em .9em .25em 0;"
    "border-bottom:1px solid #ddd;overflow-wrap:break-word}.good{color:#146c2e}.bad{color:#b3261e;font-weight:600}"
    "p.good{font-weight:600}.long{overflow-wrap:anywhere;min-width:9em}"
    "pre,code{background:#f4f4f4}pre{padding:.6em .9em;white-space:pre-wrap;overflow-wrap:anywhere}"
    "@media print{@page{size:A4;margin:18mm 16mm}body{font-size:11pt;margin:0;max-width:none}"
    "h1,h2,h3{break-after:avoid}h2.page{break-before:page}tr,pre,p{break-inside:avoid}pre{border:1px solid #bbb}}"
)
