"""The interface of a tracker, and what all trackers write.

Rank 0 alone has trackers. A resumed run repeats the steps since its last checkpoint; a tracker shows each of
them once.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lladav.config.introspection import flatten
from lladav.config.loader import run_name
from lladav.config.schema import Config
from lladav.storage import location, write_durably

PROJECT = "lladav"
"""Project or experiment that runs are shown in, unless an environment variable of the tracker names one."""
IDS = "trackers.json"
"""File in a run's folder with the id that each tracker has given to the run."""


TEXTS = ("id", "question", "answer", "expected")
"""The texts of an answer."""


@dataclass(frozen=True)
class ValidationAnswer:
    """A validation question, the model's answer to it, and the correct one. Pictures are uint8 (3, S, S)."""

    id: str
    question: str
    answer: str
    expected: str
    pictures: Sequence[np.ndarray] = ()

    @property
    def is_correct(self) -> bool:
        return self.answer.strip() == self.expected.strip()

    @property
    def row(self) -> dict[str, str]:
        """The texts by name."""
        return {name: getattr(self, name) for name in TEXTS}

    @property
    def text(self) -> str:
        """All texts in one, for a caption."""
        verdict = "correct" if self.is_correct else f"expected: {self.expected.strip()}"
        return f"{self.question.strip()} | {self.answer.strip()} ({verdict})"


class Tracker(ABC):
    """Shows a run. ``step`` counts from 1 and never decreases."""

    @abstractmethod
    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Show the numbers of a step by name."""

    @abstractmethod
    def show(self, step: int, answers: Sequence[ValidationAnswer]) -> None:
        """Show the answers of a validation."""

    @abstractmethod
    def close(self) -> None:
        """Write what is buffered."""


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker needs to know of a run.

    ``folder`` is local: the run's own folder, or a copy that is uploaded to it. ``first_step`` steps are
    committed. ``environment`` has the variables of the tracker's library.
    """

    config: Config
    folder: Path
    first_step: int
    environment: Mapping[str, str]

    @property
    def name(self) -> str:
        """The name of the run."""
        return run_name(self.config)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings by dotted key."""
        return flatten(asdict(self.config))

    def id_of(self, tracker: str, new: Callable[[], str]) -> str:
        """The id that ``new`` returned when this run was tracked for the first time."""
        file = self.folder / IDS
        ids = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        if tracker not in ids:
            ids[tracker] = new()
            write_durably(location(file), json.dumps(ids))
        return ids[tracker]
