"""A record of a data set, and the reasons why a record or its sample cannot be used."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from lladav.errors import MediaError, StorageError, UserError


class Reason(StrEnum):
    """Why a sample is left out; the values are written to quarantine files."""

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
    """A sample that cannot be used; the catcher counts it and writes it to quarantine."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason.value}: {self.detail}"


@dataclass(frozen=True)
class Unreadable:
    """Replaces a column value that cannot be read."""

    why: str


@dataclass(frozen=True)
class StoredFile:
    """An image or video that is a part of another file: ``size`` bytes of ``path`` from ``offset`` on."""

    name: str
    path: str
    offset: int
    size: int


Medium = str | bytes | StoredFile
"""An image or video: a path within the media of the source, the bytes of the file, or where they are."""


@dataclass(frozen=True)
class Record:
    """A conversation and its media: either images or one video."""

    id: str
    media: list[Medium]
    is_video: bool
    conversations: list[dict[str, str]]


@contextmanager
def errors_as_bad_sample() -> Iterator[None]:
    """Raise ``BadSample`` for damaged media and for any unexpected error, so that no record ends a run.

    Any other ``UserError`` and ``StorageError`` pass unchanged: they are about settings, installation or
    network, not about the record.
    """
    try:
        yield
    except MediaError as error:
        raise BadSample(Reason.bad_image, str(error)) from None
    except (BadSample, UserError, StorageError):
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(frame.filename).name}:{frame.lineno}"
        raise BadSample(Reason.failed, f"{type(error).__name__} at {where}: {error}") from error
