"""The tests. Of a run in which all have passed, nothing stays in the folder for temporary files."""

import atexit
import contextlib
import getpass
import tempfile
from pathlib import Path


def _remove_empty_folder() -> None:
    # pytest removes what is in it (`tmp_path_retention_policy`); in workers' ends it is not empty yet.
    with contextlib.suppress(OSError, KeyError):
        Path(tempfile.gettempdir(), f"pytest-of-{getpass.getuser()}").rmdir()


atexit.register(_remove_empty_folder)
