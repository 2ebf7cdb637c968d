"""A web page in place of something else, in words."""

from __future__ import annotations

import re

SHOWN = 60
"""So many characters of a page's first words are told."""


def page_words(body: bytes) -> str:
    """The first words of a page, without its marks and without anything that a terminal would act on."""
    text = body[:65_536].decode("utf-8", "replace")
    title = re.search(r"<title[^>]*>(.*?)</title", text, re.IGNORECASE | re.DOTALL)
    words = (
        title[1] if title else re.sub(r"<(script|style).*?</\1>|<[^>]*>", " ", text, flags=re.DOTALL | re.IGNORECASE)
    )
    plain = " ".join("".join(c if c.isprintable() else " " for c in words).split())
    return f"which begins: {plain[:SHOWN]!r}" if plain else "without words"


def looks_like_a_page(data: bytes) -> bool:
    """Whether bytes that should be a record are a web page."""
    return bool(re.match(rb"(\xef\xbb\xbf)?\s*<(!doctype|html|head|\?xml)", data[:200], re.IGNORECASE))
