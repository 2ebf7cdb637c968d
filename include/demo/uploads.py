"""The platform's uploaded documents: invoices as small PDF files, and a few large scans."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

DOCUMENTS = 2_000
SCANS = 3
SCAN_SIZE = 20 * 1024 * 1024


def write_uploads(root: Path, *, seed: int = 1) -> None:
    """Write documents below a new folder, the same ones for the same seed: about 70 MiB in all."""
    chance = random.Random(seed)
    for number in range(DOCUMENTS):
        file = root / "invoices" / f"2026-{number % 12 + 1:02}" / f"RE-{number:06}.pdf"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(_pdf(f"Invoice RE-{number:06}, {chance.randrange(100, 99_999) / 100:.2f} EUR. " * 40))
    (root / "scans").mkdir()
    for number in range(SCANS):
        (root / "scans" / f"contract-{number}.tiff").write_bytes(chance.randbytes(SCAN_SIZE))
    (root / "latest.pdf").symlink_to("invoices/2026-01/RE-000000.pdf")
    (root / "inbox").mkdir()


def tree_contents(root: Path) -> dict[str, str]:
    """What a tree of files holds, by path: a digest of each file, where each symlink leads, and every folder."""
    return {str(path.relative_to(root)): _described(path) for path in sorted(root.rglob("*"))}


def _described(path: Path) -> str:
    mode = f"{path.lstat().st_mode:o}"
    if path.is_symlink():
        return f"{mode} -> {path.readlink()}"
    return f"{mode} folder" if path.is_dir() else f"{mode} {hashlib.sha256(path.read_bytes()).hexdigest()}"


def _pdf(text: str) -> bytes:
    """A document that a reader of PDF opens."""
    stream = f"BT /F1 8 Tf 40 780 Td ({text[:90]}) Tj ET".encode()
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>",
        b"<</Length %d>>stream\n%s\nendstream" % (len(stream), stream),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    body = b"%PDF-1.4\n%" + text.encode() + b"\n"
    places = []
    for number, content in enumerate(objects, start=1):
        places.append(len(body))
        body += b"%d 0 obj%s endobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    end = b"trailer<</Size 6/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n" % len(body)
    return body + b"xref\n0 6\n0000000000 65535 f \n" + table + end
