"""From JSON text or a row of columns to a record, in any of the forms that data sets have.

Nothing here opens an image: a record is checked for its form alone. Whatever the input, ``parse`` returns a
record whose texts and paths can be encoded as UTF-8, or raises ``BadSample`` with the key at fault.
"""

from __future__ import annotations

import base64
import binascii
import json
import urllib.parse
from collections.abc import Mapping
from typing import Any

from data.records.record import BadSample, Reason, Record, Unreadable
from lladav.inputs.chat import ROLES, join_parts

CONVERSATION_KEYS = ("conversations", "messages")
IMAGE_KEYS, VIDEO_KEYS = ("image", "images"), ("video", "videos")
COLUMNS = ("id", *IMAGE_KEYS, *VIDEO_KEYS, *CONVERSATION_KEYS, "system")
"""Every key that a record may have; others are ignored."""

IMAGE_PARTS, VIDEO_PARTS = ("image", "image_url"), ("video", "video_url")
"""Types of the parts of a message that stand for an image or a video."""

LONGEST_SHOWN = 80
KINDS = {dict: "an object", list: "a list", int: "a number", float: "a number", bytes: "bytes"}


def parse(raw: bytes | Mapping[str, Any]) -> Record:
    """The record in JSON text or in a row of columns; raises ``BadSample`` where its form is wrong."""
    fields = _json(raw) if isinstance(raw, bytes) else raw
    if not isinstance(fields, Mapping):
        raise _bad(f"the record is {_kind(fields)}, not an object")
    turns, parts = _conversation(fields)
    images = _media(fields, IMAGE_KEYS, [value for kind, value in parts if kind in IMAGE_PARTS])
    videos = _media(fields, VIDEO_KEYS, [value for kind, value in parts if kind in VIDEO_PARTS])
    if images and videos:
        raise _bad("the record has both images ('image' or 'images') and a video ('video' or 'videos')")
    if len(videos) > 1:
        raise _bad(f"'video' or 'videos' names {len(videos)} files; one video is supported")
    return Record(_id_in(fields), images + videos, bool(videos), turns)


def record_id(raw: Any) -> str:
    """What the record calls itself; empty where it does not say or cannot be read."""
    try:
        fields = _json(raw) if isinstance(raw, bytes) else raw
    except BadSample:
        return ""
    return _id_in(fields) if isinstance(fields, Mapping) else ""


def _id_in(fields: Mapping[str, Any]) -> str:
    """Always text that can be encoded: the id seeds random draws and goes to files."""
    value = fields.get("id")
    if value is None or isinstance(value, (list, Mapping, Unreadable)):
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
    """The turns in LLaVA's form, and what their parts refer to: (type of the part, reference)."""
    key = next((k for k in CONVERSATION_KEYS if fields.get(k) is not None), CONVERSATION_KEYS[0])
    turns, parts = fields.get(key), []
    if not isinstance(turns, list) or not turns:
        raise _bad(f"{_named(key, turns)}, not a list of turns")
    found = [_turn(turn, f"{key}[{number}]", parts) for number, turn in enumerate(turns)]
    system = fields.get("system") if key == "messages" else None
    if system and ROLES[found[0]["from"]] != "system":
        found.insert(0, {"from": "system", "value": _text(system, "system")})
    return found, parts


def _turn(turn: Any, key: str, parts: list[tuple[str, Any]]) -> dict[str, str]:
    """A turn by LLaVA's keys (from, value) or OpenAI's (role, content)."""
    if not isinstance(turn, Mapping):
        raise _bad(f"{_named(key, turn)}, not a turn")
    speaker = _first(turn, "role", "from")
    if not isinstance(speaker, str) or speaker not in ROLES:
        told = repr(speaker[:LONGEST_SHOWN]) if isinstance(speaker, str) else _kind(speaker)
        raise BadSample(Reason.unknown_role, f"'{key}' is from {told}; use human or gpt, user or assistant")
    given = [field for field in ("content", "value") if turn.get(field) is not None]
    field = given[0] if given else "content" if "role" in turn else "value"
    value = turn.get(field)
    if isinstance(value, list):
        pieces = [_piece(part, f"{key}.{field}[{number}]", parts) for number, part in enumerate(value)]
        return {"from": speaker, "value": join_parts(pieces)}
    return {"from": speaker, "value": _text(value, f"{key}.{field}")}


def _piece(part: Any, key: str, parts: list[tuple[str, Any]]) -> str | None:
    """The text of a part; none for an image or video, which is noted in ``parts`` if it has a reference."""
    if not isinstance(part, Mapping):
        raise _bad(f"{_named(key, part)}, not a part of a message")
    kind = part.get("type")
    if kind == "text":
        return _text(part.get("text"), f"{key}.text")
    if not isinstance(kind, str) or kind not in (*IMAGE_PARTS, *VIDEO_PARTS):
        raise _bad(f"{_named(f'{key}.type', kind)}; use text, image, image_url, video or video_url")
    reference = _first(part, kind, "path", "url")
    if isinstance(reference, Mapping) and reference.get("url") is not None:
        reference = reference["url"]
    if reference is not None:
        parts.append((kind, _medium(reference, f"{key}.{kind}")))
    return None


# Images and videos


def _media(fields: Mapping[str, Any], keys: tuple[str, str], in_parts: list[Any]) -> list[str | bytes]:
    """What one of two keys lists, or the parts of the messages refer to."""
    given = {key: found for key in keys if (found := _listed(fields.get(key), key))}
    lists = [*given.values(), *([in_parts] if in_parts else [])]
    if any(found != lists[0] for found in lists):
        told = " and ".join([*(f"'{key}'" for key in given), *(["parts of messages"] if in_parts else [])])
        raise _bad(f"{told} name different files; keep one of them")
    return lists[0] if lists else []


def _listed(value: Any, key: str) -> list[str | bytes]:
    """The media of a value, of a list, or of lists in a list, in order; nothing for null and empty texts."""
    waiting, found = [value], []
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting += reversed(item)
        elif item is not None and item != "":
            found.append(_medium(item, key))
    return found


def _medium(value: Any, key: str) -> str | bytes:
    """A path, bytes, or the {bytes, path} pair of the Hugging Face image type."""
    if isinstance(value, Mapping):
        content = value.get("bytes")
        if content is not None and not isinstance(content, bytes):
            raise _bad(f"{_named(f'{key}.bytes', content)}, not bytes; name a file by its path")
        value = _first(value, "bytes", "path")
        if value is None:
            raise _bad(f"'{key}' is an object without bytes and path")
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise _bad(f"{_named(key, value)}, not a path or a list of paths")
    return _located(_text(value, key), key)


def _located(path: str, key: str) -> str | bytes:
    """The path itself, the path in a file URL, or the bytes in a data URL."""
    if path.startswith("data:"):
        return _inline(path, key)
    if path.startswith(("http://", "https://")):
        raise _bad(f"'{key}' is a web address; download the file and name its path")
    path = urllib.parse.unquote(path[len("file://") :]) if path.startswith("file://") else path
    if "\0" in path:
        raise _bad(f"'{key}' holds a NUL character, which no path can; correct it")
    return path


def _inline(url: str, key: str) -> bytes:
    head, _, content = url.partition(",")
    try:
        if not head.endswith(";base64"):
            raise ValueError("it is not in base64")
        return base64.b64decode(content, validate=True)
    except (ValueError, binascii.Error) as error:
        raise _bad(f"'{key}' is a data URL that cannot be read: {error}") from None


# Values of any type


def _text(value: Any, key: str) -> str:
    """A text that UTF-8 can encode, as tokenizers and file systems need it."""
    if not isinstance(value, str):
        raise _bad(f"{_named(key, value)}, not a text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        half = ascii(value[error.start])
        detail = f"'{key}' holds {half}, half of a surrogate pair, at character {error.start}"
        raise BadSample(Reason.bad_text, f"{detail}; write the whole character") from None
    return value


def _first(fields: Mapping[str, Any], *keys: str) -> Any:
    """The first value that is not null."""
    return next((fields[key] for key in keys if fields.get(key) is not None), None)


def _named(key: str, value: Any) -> str:
    return f"'{key}' is missing" if value is None else f"'{key}' is {_kind(value)}"


def _kind(value: Any) -> str:
    if isinstance(value, Unreadable):
        return f"unreadable ({value.why})"
    if isinstance(value, str):
        return ascii(value[:LONGEST_SHOWN])
    if value == []:
        return "an empty list"
    return KINDS.get(type(value), f"of type {type(value).__name__}")


def _bad(detail: str) -> BadSample:
    return BadSample(Reason.bad_record, detail)
