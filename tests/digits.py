"""The built-in data set, shortened: a test process writes it once, because that takes about ten seconds."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from data.digits.preparation import prepare

SCALE = 0.02
"""Size of the training sets, relative to the full ones."""


@cache
def shared_digits() -> Path:
    """Folder of the data set. Tests share it, so they may only read it; manifests of it are kept."""
    folder = Path(tempfile.mkdtemp(prefix="lladav-digits-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    prepare(folder / "digits", scale=SCALE)
    return folder / "digits"


def copy_digits(folder: Path) -> Path:
    """Copy the data set to ``folder / "digits"``, where a test may change it."""
    return Path(shutil.copytree(shared_digits(), folder / "digits", ignore=lambda *_: {".manifests"}))
