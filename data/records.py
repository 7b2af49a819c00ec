"""A record of a data set as read from disk, and the ways in which one can be bad.

Nothing here opens an image: a record is checked for its form alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from lladav.text import ROLES


class Reason(StrEnum):
    """Why a sample is left out."""

    bad_json = "bad_json"
    bad_record = "bad_record"
    unknown_role = "unknown_role"
    image_count = "image_count"
    missing_file = "missing_file"
    empty_file = "empty_file"
    bad_image = "bad_image"
    answer_cut = "answer_cut"


class BadSample(Exception):
    """A sample that cannot be used: counted and quarantined by whoever catches it."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason.value}: {self.detail}"


@dataclass(frozen=True)
class Record:
    """A conversation and its pictures: paths into the source's media, or the bytes themselves."""

    id: str
    media: list[str | bytes]
    is_video: bool
    conversations: list[dict[str, str]]


def parse(raw: bytes | Mapping[str, Any]) -> Record:
    """The record that JSON text or a row of columns spells; raises ``BadSample`` where its form is wrong."""
    fields = _json(raw) if isinstance(raw, bytes) else raw
    if not isinstance(fields, Mapping):
        raise BadSample(Reason.bad_record, f"the record is a {type(fields).__name__}, not an object")
    images, videos = _media(fields, "image"), _media(fields, "video")
    if images and videos:
        raise BadSample(Reason.bad_record, "the record has both an image and a video")
    if len(videos) > 1:
        raise BadSample(Reason.bad_record, f"the record has {len(videos)} videos; one is supported")
    return Record(record_id(fields), images + videos, bool(videos), _conversations(fields))


def record_id(raw: Any) -> str:
    """What the record calls itself; empty where it does not say."""
    value = raw.get("id") if isinstance(raw, Mapping) else None
    return "" if value is None else str(value)


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise BadSample(Reason.bad_json, str(error)) from None


def _media(fields: Mapping[str, Any], key: str) -> list[str | bytes]:
    value = fields.get(key)
    values = value if isinstance(value, list) else [value]
    return [_medium(v, key) for v in values if v is not None and v != ""]


def _medium(value: Any, key: str) -> str | bytes:
    """A path, bytes, or the {bytes, path} pair of the Hugging Face image type."""
    if isinstance(value, Mapping):
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    if not isinstance(value, (str, bytes)):
        raise BadSample(
            Reason.bad_record, f"'{key}' is a {type(value).__name__}, not a path or a list of paths"
        )
    return value


def _conversations(fields: Mapping[str, Any]) -> list[dict[str, str]]:
    turns = fields.get("conversations")
    if not isinstance(turns, list) or not turns:
        raise BadSample(Reason.bad_record, "'conversations' is not a list of turns")
    return [_turn(turn) for turn in turns]


def _turn(turn: Any) -> dict[str, str]:
    if not isinstance(turn, Mapping) or not isinstance(turn.get("value"), str):
        raise BadSample(Reason.bad_record, "a turn has no 'value' text")
    if turn.get("from") not in ROLES:
        raise BadSample(Reason.unknown_role, f"a turn is from {turn.get('from')!r}, not human or gpt")
    return {"from": turn["from"], "value": turn["value"]}
