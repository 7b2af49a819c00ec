"""A record of a data set, and the ways in which one can be bad."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from lladav.errors import StorageError, UserError


class Reason(StrEnum):
    """Why a sample is left out."""

    bad_json = "bad_json"
    bad_record = "bad_record"
    bad_text = "bad_text"
    unknown_role = "unknown_role"
    image_count = "image_count"
    missing_file = "missing_file"
    empty_file = "empty_file"
    bad_image = "bad_image"
    answer_cut = "answer_cut"
    failed = "failed"


class BadSample(Exception):
    """A sample that cannot be used: counted and quarantined by whoever catches it."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason.value}: {self.detail}"


@dataclass(frozen=True)
class Unreadable:
    """Stands for the value of a column that cannot be read, and says why."""

    why: str


@dataclass(frozen=True)
class Record:
    """A conversation and its images or video: paths into the source's media, or the bytes themselves."""

    id: str
    media: list[str | bytes]
    is_video: bool
    conversations: list[dict[str, str]]


@contextmanager
def contained() -> Iterator[None]:
    """Turn an error that nobody foresaw into a ``BadSample``, so that no record ends a run.

    A ``UserError`` and a ``StorageError`` pass: they are about settings, installation or network, not about
    the record.
    """
    try:
        yield
    except (BadSample, UserError, StorageError):
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(frame.filename).name}:{frame.lineno}"
        raise BadSample(Reason.failed, f"{type(error).__name__} at {where}: {error}") from error
