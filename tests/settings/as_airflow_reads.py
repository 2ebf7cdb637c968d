"""How Airflow's two classes of connections read what stands on standard input: a JSON list of texts, a JSON list back.

A program of its own, since Airflow reads the environment and makes itself a home when it is imported.
"""

import json
import sys

from airflow.models.connection import Connection as Model
from airflow.sdk import Connection as Sdk

from lifeboat.connections import Connection


def read(kind: type, text: str) -> dict[str, object]:
    """The connection as a task would get it from a variable of the environment."""
    text = text.strip()
    if text.startswith("{"):
        return vars(Connection.of(kind.from_json(text, conn_id="some_id")))
    return vars(Connection.of(kind(conn_id="some_id", uri=text)))


def main() -> None:
    texts = json.load(sys.stdin)
    answers = [{"model": read(Model, text), "sdk": read(Sdk, text), "uri": read_uri(text)} for text in texts]
    sys.stdout.write(json.dumps(answers))


def read_uri(text: str) -> str:
    """The same connection, written again by Airflow."""
    text = text.strip()
    theirs = Model.from_json(text, conn_id="some_id") if text.startswith("{") else Model(conn_id="some_id", uri=text)
    return theirs.get_uri()


if __name__ == "__main__":
    main()
