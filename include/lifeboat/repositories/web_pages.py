"""A web page where a store should have answered: a login page, a captive portal, a proxy's own, a wrong address."""

from __future__ import annotations

from collections.abc import Mapping

from botocore.exceptions import BotoCoreError

from lifeboat.repositories.web_words import page_words

HINT = "The address leads elsewhere, as to a login page. Correct the connection's endpoint; log in to the network."


class PageFromS3(BotoCoreError):
    """A web page came where S3 should have answered."""

    fmt = "{page}"


class PageFromAzure(OSError):
    """A web page came where Azure should have answered; none of the SDK's own errors, which it would try again."""


def page_in(status: int, headers: Mapping[str, str], body: bytes, marks: str) -> str:
    """What came in place of a store's answer, whose headers begin with `marks`; empty where a store has answered.

    A gateway's page of a fault of its own, of status 502 and the like, says only that the store cannot be reached now.
    boto3 makes a status 500 of a page that came with 200 where it wanted XML.
    """
    names = {name.lower(): value for name, value in headers.items()}
    if status > 500 or "html" not in names.get("content-type", "") or any(name.startswith(marks) for name in names):
        return ""
    said = "" if status == 500 else f"status {status}, "
    return f"a web page came, no answer of a store ({said}{page_words(body)})"
