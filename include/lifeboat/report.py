"""The report of a restore test, for people: Markdown, and an HTML page that needs nothing else.

It is kept in the vault beside the snapshots, unsealed: whoever can read the bucket can read it. The attestations, not
the report, are the signed record.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from lifeboat import __version__
from lifeboat.discretion import without_rows
from lifeboat.document import Heading, Paragraph, Part, Table, as_html, as_markdown, store_document
from lifeboat.progress import count_text, duration_text, size_text
from lifeboat.proof import Proof
from lifeboat.snapshot import Kind
from lifeboat.vault import Vault


def markdown_report(proofs: Sequence[Proof], *, platform: str, made: datetime, rto_hours: float | None = None) -> str:
    """The report as Markdown."""
    return as_markdown(_parts(proofs, platform, made, rto_hours))


def html_report(proofs: Sequence[Proof], *, platform: str, made: datetime, rto_hours: float | None = None) -> str:
    """The report as one page of HTML, its style within."""
    return as_html(f"{_TITLE}: {platform}", _parts(proofs, platform, made, rto_hours))


def store_report(
    vault: Vault, proofs: Sequence[Proof], *, platform: str, made: datetime, rto_hours: float | None = None
) -> tuple[str, ...]:
    """Put the report into every repository that answers, as Markdown and as HTML; returns the two keys.

    Raises `RepositoryError` when no repository took it.
    """
    parts = tuple(_parts(proofs, platform, made, rto_hours))
    return store_document(vault, "restore-test", made, f"{_TITLE}: {platform}", parts)


# ---- what it says ---------------------------------------------------------------------------------------------------

_TITLE = "Restore test"


def _parts(proofs: Sequence[Proof], platform: str, made: datetime, rto_hours: float | None) -> Iterator[Part]:
    yield Heading(1, f"{_TITLE}: {platform}")
    failed = sum(not proof.proven for proof in proofs)
    count = count_text(len(proofs), "snapshot")
    verdict = f"{failed} of {count} could not be proven." if failed else f"{count} proven."
    yield Paragraph(f"{made:%d %B %Y, %H:%M} UTC. {verdict}", not failed)
    for proof in proofs:
        yield from _about(proof, rto_hours)
    yield Paragraph(f"Written by lifeboat {__version__}.")


def _about(proof: Proof, rto_hours: float | None) -> Iterator[Part]:
    manifest = proof.snapshot.manifest
    yield Heading(2, proof.snapshot.label)
    if proof.proven:
        yield Paragraph("Proven: it was restored, held what its source held, and every check passed.", True)
    else:
        yield Paragraph(f"NOT PROVEN. {without_rows(proof.reason)}", False)
    took = duration_text(proof.total)
    if rto_hours is not None:
        took += f" of the {duration_text(rto_hours * 3600)} that the platform may be down"
    rows = [
        ("snapshot began", f"{manifest.began:%Y-%m-%d %H:%M:%S} UTC"),
        ("restored from", proof.repository or "no repository has a whole copy"),
        ("time to recover", took),
        *_restored(proof),
        ("size", f"{size_text(manifest.plain_size)} dumped, {size_text(manifest.sealed_size)} stored"),
    ]
    yield Table(("", ""), tuple(rows))
    for name, reason in proof.damaged.items():
        yield Paragraph(f"The copy in {name} is DAMAGED: {without_rows(reason)}", False)
    for note in proof.notes:
        yield Paragraph(f"Note: {without_rows(note)}")
    yield Heading(3, "Time by phase")
    yield Table(("phase", "seconds"), tuple((name, f"{seconds:.1f}") for name, seconds in proof.seconds.items()))
    if proof.checks:
        yield Heading(3, "Checks")
        yield Table(
            ("check", "result", "seconds", "expected", "found"),
            tuple(
                (c.name, "passed" if c.passed else "FAILED", f"{c.seconds:.2f}", c.expected, c.found)
                for c in proof.checks
            ),
        )


def _restored(proof: Proof) -> Iterator[tuple[str, str]]:
    facts = proof.snapshot.manifest.facts
    if proof.snapshot.manifest.kind is Kind.CONFIG:
        yield "source", count_text(facts.get("files", 0), "configuration file")
        return
    if proof.snapshot.manifest.kind is not Kind.POSTGRES:
        yield "restored", proof.restored
        return
    size = facts.get("database_size")
    yield "source", f"PostgreSQL {facts.get('server_version', 'unknown')}" + (f", {size_text(size)}" if size else "")
    yield "restored on", f"PostgreSQL {proof.server_version}" if proof.server_version else "nothing"
    yield "restored", f"{count_text(proof.tables, 'table')} with {count_text(proof.rows, 'row')}"
