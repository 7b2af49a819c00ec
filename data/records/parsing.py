"""The parser of records: JSON text or table rows, with LLaVA's or OpenAI's keys.

The parser checks the structure of a record and opens no files. For any input ``parse`` either returns a
record whose texts and paths can be encoded as UTF-8, or raises ``BadSample`` with the key at fault.
"""

from __future__ import annotations

import base64
import binascii
import json
import urllib.parse
from collections.abc import Mapping
from typing import Any

from data.records.record import BadSample, Medium, Reason, Record, StoredFile, Unreadable
from lladav.inputs.chat import ROLES, join_parts

CONVERSATION_KEYS = ("conversations", "messages")
IMAGE_KEYS, VIDEO_KEYS = ("image", "images"), ("video", "videos")
COLUMNS = ("id", *IMAGE_KEYS, *VIDEO_KEYS, *CONVERSATION_KEYS, "system")
"""All keys of a record that are read; others are ignored."""

IMAGE_PARTS, VIDEO_PARTS = ("image", "image_url"), ("video", "video_url")
"""Types of message parts that are an image or a video."""

OBJECT = (dict, Mapping)
"""What a JSON object is in Python; ``dict`` is first, because abstract classes are slow to check."""

MAX_QUOTED_CHARACTERS = 80
TYPE_NAMES = {dict: "an object", list: "a list", int: "a number", float: "a number", bytes: "bytes"}


def parse(raw: bytes | Mapping[str, Any]) -> Record:
    """Parse JSON text or the columns of a row as a record; raises ``BadSample`` for wrong structure."""
    fields = _json(raw) if isinstance(raw, bytes) else raw
    if not isinstance(fields, OBJECT):
        raise _bad(f"the record is {_described(fields)}, not an object")
    turns, parts = _conversation(fields)
    images = _media(fields, IMAGE_KEYS, [value for kind, value in parts if kind in IMAGE_PARTS])
    videos = _media(fields, VIDEO_KEYS, [value for kind, value in parts if kind in VIDEO_PARTS])
    if images and videos:
        raise _bad("the record has both images ('image' or 'images') and a video ('video' or 'videos')")
    if len(videos) > 1:
        raise _bad(f"'video' or 'videos' names {len(videos)} files; one video is supported")
    return Record(_id_of(fields), images + videos, bool(videos), turns)


def record_id(raw: Any) -> str:
    """The id in the record itself; empty if it has none or is not valid JSON."""
    try:
        fields = _json(raw) if isinstance(raw, bytes) else raw
    except BadSample:
        return ""
    return _id_of(fields) if isinstance(fields, OBJECT) else ""


def _id_of(fields: Mapping[str, Any]) -> str:
    """The id as text that UTF-8 can encode: random draws are seeded with it and it is written to files."""
    value = fields.get("id")
    if value is None or isinstance(value, (list, *OBJECT, Unreadable)):
        return ""
    text = value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)
    return text.encode(errors="backslashreplace").decode()


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise BadSample(Reason.bad_json, str(error)) from None
    except RecursionError:
        raise BadSample(Reason.bad_json, "brackets are nested too deeply") from None


# Conversations


def _conversation(fields: Mapping[str, Any]) -> tuple[list[dict[str, str]], list[tuple[str, Any]]]:
    """The turns with LLaVA's keys, and the media that message parts refer to as (part type, reference)."""
    key = next((k for k in CONVERSATION_KEYS if fields.get(k) is not None), CONVERSATION_KEYS[0])
    turns, parts = fields.get(key), []
    if not isinstance(turns, list) or not turns:
        raise _bad(f"{_problem(key, turns)}, not a list of turns")
    parsed = [_turn(turn, f"{key}[{number}]", parts) for number, turn in enumerate(turns)]
    system = fields.get("system")
    if system and ROLES[parsed[0]["from"]] != "system":
        parsed.insert(0, {"from": "system", "value": _text(system, "system")})
    return parsed, parts


def _turn(turn: Any, key: str, parts: list[tuple[str, Any]]) -> dict[str, str]:
    """A turn with LLaVA's keys (from, value) or OpenAI's (role, content); appends its media to ``parts``."""
    if not isinstance(turn, OBJECT):
        raise _bad(f"{_problem(key, turn)}, not a turn")
    speaker = _first(turn, "role", "from")
    if not isinstance(speaker, str) or speaker not in ROLES:
        quoted = repr(speaker[:MAX_QUOTED_CHARACTERS]) if isinstance(speaker, str) else _described(speaker)
        raise BadSample(Reason.unknown_role, f"'{key}' is from {quoted}; use human or gpt, user or assistant")
    present = [field for field in ("content", "value") if turn.get(field) is not None]
    field = present[0] if present else "content" if "role" in turn else "value"
    value = turn.get(field)
    if isinstance(value, list):
        pieces = [_part_text(part, f"{key}.{field}[{number}]", parts) for number, part in enumerate(value)]
        return {"from": speaker, "value": join_parts(pieces)}
    return {"from": speaker, "value": _text(value, f"{key}.{field}")}


def _part_text(part: Any, key: str, parts: list[tuple[str, Any]]) -> str | None:
    """The text of a part; None for an image or video, whose reference (if any) is appended to ``parts``."""
    if not isinstance(part, OBJECT):
        raise _bad(f"{_problem(key, part)}, not a part of a message")
    kind = part.get("type")
    if kind == "text":
        return _text(part.get("text"), f"{key}.text")
    if not isinstance(kind, str) or kind not in (*IMAGE_PARTS, *VIDEO_PARTS):
        raise _bad(f"{_problem(f'{key}.type', kind)}; use text, image, image_url, video or video_url")
    reference = _first(part, kind, "path", "url")
    if isinstance(reference, OBJECT) and reference.get("url") is not None:
        reference = reference["url"]
    if reference is not None:
        parts.append((kind, _medium(reference, f"{key}.{kind}")))
    return None


# Images and videos


def _media(fields: Mapping[str, Any], keys: tuple[str, str], in_parts: list[Any]) -> list[Medium]:
    """The media listed at either key or in message parts; raises ``BadSample`` if these lists differ."""
    present = [key for key in keys if fields.get(key) is not None]
    lists = {f"'{key}'": media for key in present if (media := _flat_media(fields[key], key))}
    if in_parts:
        lists["parts of messages"] = in_parts
    media = next(iter(lists.values()), [])
    if any(other != media for other in lists.values()):
        raise _bad(f"{' and '.join(lists)} name different files; keep one of them")
    return media


def _flat_media(value: Any, key: str) -> list[Medium]:
    """The media in a value or in nested lists, in order; null and empty texts are skipped."""
    stack, media = [value], []
    while stack:
        item = stack.pop()
        if isinstance(item, list):
            stack += reversed(item)
        elif item is not None and item != "":
            media.append(_medium(item, key))
    return media


def _medium(value: Any, key: str) -> Medium:
    """A medium from a text, bytes, the {bytes, path} pair of the Hugging Face image type, or itself."""
    if isinstance(value, OBJECT):
        content = value.get("bytes")
        if content is not None and not isinstance(content, bytes):
            raise _bad(f"{_problem(f'{key}.bytes', content)}, not bytes; name a file by its path")
        value = _first(value, "bytes", "path")
        if value is None:
            raise _bad(f"'{key}' is an object without bytes and path")
    if isinstance(value, bytes | StoredFile):
        return value
    if not isinstance(value, str):
        raise _bad(f"{_problem(key, value)}, not a path or a list of paths")
    return _path_or_bytes(_text(value, key), key)


def _path_or_bytes(path: str, key: str) -> str | bytes:
    """The path itself, the path in a file URL, or the bytes in a data URL."""
    if path.startswith("data:"):
        return _decoded_data_url(path, key)
    if path.startswith(("http://", "https://")):
        raise _bad(f"'{key}' is a web address; download the file and name its path")
    path = urllib.parse.unquote(path[len("file://") :]) if path.startswith("file://") else path
    if "\0" in path:
        raise _bad(f"'{key}' holds a NUL character, which is not allowed in a path; correct it")
    return path


def _decoded_data_url(url: str, key: str) -> bytes:
    head, _, content = url.partition(",")
    try:
        if not head.endswith(";base64"):
            raise ValueError("it is not in base64")
        return base64.b64decode(content, validate=True)
    except (ValueError, binascii.Error) as error:
        raise _bad(f"'{key}' is a data URL that cannot be read: {error}") from None


# Values of any type


def _text(value: Any, key: str) -> str:
    """A text that UTF-8 can encode: tokenizers and file systems need that."""
    if not isinstance(value, str):
        raise _bad(f"{_problem(key, value)}, not a text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        half = ascii(value[error.start])
        detail = f"'{key}' holds {half}, half of a surrogate pair, at character {error.start}"
        raise BadSample(Reason.bad_text, f"{detail}; write the whole character") from None
    return value


def _first(fields: Mapping[str, Any], *keys: str) -> Any:
    """The first value that is not null."""
    for key in keys:
        if (value := fields.get(key)) is not None:
            return value
    return None


def _problem(key: str, value: Any) -> str:
    return f"'{key}' is missing" if value is None else f"'{key}' is {_described(value)}"


def _described(value: Any) -> str:
    if isinstance(value, Unreadable):
        return f"unreadable ({value.why})"
    if isinstance(value, str):
        return ascii(value[:MAX_QUOTED_CHARACTERS])
    if value == []:
        return "an empty list"
    return TYPE_NAMES.get(type(value), f"of type {type(value).__name__}")


def _bad(detail: str) -> BadSample:
    return BadSample(Reason.bad_record, detail)
