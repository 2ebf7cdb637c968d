"""What all operators share: errors in Airflow's terms, records of earlier tasks, children that die with the task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException, XComNotFound

from lifeboat.children import Children
from lifeboat.errors import LifeboatError, SettingsError
from lifeboat.progress import ProgressLog
from lifeboat_airflow.records import missing_record


@contextmanager
def as_airflows(log: Any, children: Children | None = None) -> Iterator[None]:
    """Turn the core's errors into Airflow's: one that is retried, or one that fails the task at once.

    Whatever fails after these `children` were ended from outside, as by an eviction, says nothing, and is retried.
    """
    try:
        yield
    except (LifeboatError, AirflowFailException) as error:
        if isinstance(error, LifeboatError):
            log.error("%s", error)
        if children is not None and children.killed:
            raise AirflowException(f"The task was ended from outside, and then it failed: {error}") from error
        if isinstance(error, AirflowFailException):
            raise
        kind = AirflowException if error.transient else AirflowFailException
        raise kind(str(error)) from error


class RecordsOperator(BaseOperator):
    """Needs what earlier tasks hand on, and fails at once where that is missing."""

    def render_template(self, content: Any, context: Context, *arguments: Any, **named: Any) -> Any:
        """What a field holds, or an earlier task's record in its place."""
        if not hasattr(content, "iter_references"):
            return super().render_template(content, context, *arguments, **named)
        found = None
        with suppress(LookupError, TypeError, ValueError, XComNotFound):  # how else Airflow comes upon nothing
            found = super().render_template(content, context, *arguments, **named)
        if found is None:
            with as_airflows(self.log):
                raise missing_record(*(task.task_id for task, _ in content.iter_references()))
        return found


class LifeboatOperator(RecordsOperator):
    """Does its `work`. An error that a retry can help is retried; any other fails the task at once."""

    ui_color = "#dceaf5"

    def work(self, context: Context) -> Any:
        """What the task is for. Its result becomes an XCom: names, sizes and digests, never bytes or secrets."""
        raise NotImplementedError

    def execute(self, context: Context) -> Any:
        """Do the work, with errors in Airflow's terms."""
        self.progress = ProgressLog(self.log.info)
        with as_airflows(self.log, self.children):
            self.children.refuse_killed()
            return self.work(context)

    @property
    def children(self) -> Children:
        """The programs of this task."""
        # Made when it is first asked for: Airflow may end a task before it has begun.
        children: Children = self.__dict__.setdefault("_children", Children())
        return children

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
        self.children.kill()


class SourceOperator(LifeboatOperator):
    """Does its work for one source, by which a mapped task is called."""

    template_fields: Sequence[str] = ("source",)

    def __init__(self, *, source: str, **kwargs: Any) -> None:
        kwargs.setdefault("map_index_template", "{{ task.source }}")
        super().__init__(**kwargs)
        self.source = source
