"""What all operators share: errors in Airflow's terms, children that die with the task, names for mapped tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from lifeboat.children import Children
from lifeboat.errors import LifeboatError, SettingsError
from lifeboat.progress import ProgressLog


@contextmanager
def as_airflows(log: Any) -> Iterator[None]:
    """Turn the core's errors into Airflow's: one that is retried, or one that fails the task at once."""
    try:
        yield
    except LifeboatError as error:
        log.error("%s", error)
        kind = AirflowException if error.transient else AirflowFailException
        raise kind(str(error)) from error


class LifeboatOperator(BaseOperator):
    """Does its `work`. An error that a retry can help is retried; any other fails the task at once."""

    ui_color = "#dceaf5"

    def work(self, context: Context) -> Any:
        """What the task is for. Its result becomes an XCom: names, sizes and digests, never bytes or secrets."""
        raise NotImplementedError

    def execute(self, context: Context) -> Any:
        """Do the work, with errors in Airflow's terms."""
        self.children = Children()
        self.progress = ProgressLog(self.log.info)
        with as_airflows(self.log):
            return self.work(context)

    def require_typed(self, **fields: type) -> None:
        """Refuse fields that a template has rendered as text, not as a list or a boolean. Raises `SettingsError`."""
        for name, kind in fields.items():
            value = getattr(self, name)
            if value is not None and not isinstance(value, kind):
                raise SettingsError(
                    f"{name} = {value!r} must be of type {kind.__name__}.",
                    hint="Give the DAG render_template_as_native_obj=True, so that templates keep their types.",
                )

    def on_kill(self) -> None:
        """End the programs this task has started."""
        children = getattr(self, "children", None)
        if children is not None:
            children.kill()


class SourceOperator(LifeboatOperator):
    """Does its work for one source, by which a mapped task is called."""

    template_fields: Sequence[str] = ("source",)

    def __init__(self, *, source: str, **kwargs: Any) -> None:
        kwargs.setdefault("map_index_template", "{{ task.source }}")
        super().__init__(**kwargs)
        self.source = source
