"""The built-in data set, shortened: a test run writes it once, because that takes about ten seconds."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

from filelock import FileLock

from data.digits.preparation import prepare

SCALE = 0.02
"""Size of the training sets, relative to the full ones."""


@cache
def shared_digits() -> Path:
    """Folder of the data set. All processes of a test run share it: tests may only read it, and manifests of
    it are kept. The last process removes it.
    """
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID") or str(os.getpid())
    folder = Path(tempfile.gettempdir()) / f"lladav-digits-{run}"
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "lock"):
        user = folder / f"user-{os.getpid()}"
        user.touch()
        prepare(folder / "digits", scale=SCALE)
    atexit.register(_remove_after_last, folder, user)
    return folder / "digits"


def _remove_after_last(folder: Path, user: Path) -> None:
    with FileLock(folder / "lock"):
        user.unlink()
        if not [*folder.glob("user-*")]:
            shutil.rmtree(folder, ignore_errors=True)


def copy_digits(folder: Path) -> Path:
    """Copy the data set to ``folder / "digits"``, where a test may change it."""
    return Path(shutil.copytree(shared_digits(), folder / "digits", ignore=lambda *_: {".manifests"}))
