"""A run that is tracked twice: from the beginning, and resumed from its checkpoint after step 2."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lladav.config.loader import load
from train.trainer.tracking.opening import open_trackers
from train.trainer.tracking.tracker import TrackedRun, ValidationAnswer

NAME = "tracked"
PICTURE = np.arange(3 * 8 * 8, dtype=np.uint8).reshape(3, 8, 8)
ANSWER = ValidationAnswer("sample", "How many digits?", "two", "three", [PICTURE])


def track(folder: Path, tracker: str, first: int, last: int, environment: Mapping[str, str]) -> None:
    """Write the steps after ``first``, and the answers of a validation after the last one."""
    config = load(["stage=si", f"train.run={NAME}", f"train.storage={folder}", f"train.trackers=[{tracker}]"])
    (folder / NAME).mkdir(parents=True, exist_ok=True)
    [opened] = open_trackers(TrackedRun(config, folder / NAME, first, environment))
    for step in range(first + 1, last + 1):
        opened.write(step, {"loss": step / 2})
    opened.show(last, [ANSWER])
    opened.close()


def track_and_resume(folder: Path, tracker: str, environment: Mapping[str, str]) -> None:
    """Track steps 1 to 4, and then steps 3 to 6 as a run does that resumes after step 2."""
    track(folder, tracker, 0, 4, environment)
    begin = int(time.time())
    while int(time.time()) == begin:  # names of files contain seconds
        time.sleep(0.01)
    track(folder, tracker, 2, 6, environment)
