"""From a row of the input to a request of the API.

A row has the fields of a request, and ``prompt``, ``image``, ``images`` and ``video`` as a short form of
``messages``. A row of OpenAI's batch file has its request in ``body``. URLs of images and videos may also be
paths; their content replaces them, so that an engine reads no files.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from upath import UPath

from lladav.errors import UserError
from lladav.storage import file_size, location, read_into
from serve.errors import ApiError
from serve.media.data_uris import IMAGE, VIDEO, MediaKind, check_bytes
from serve.offline.inputs.shards import ReadRow
from serve.offline.settings import BatchSettings

SHORT_FIELDS = ("id", "prompt", "image", "images", "video")
"""Fields of rows that requests do not have."""
BATCH_FIELDS = ("custom_id", "method", "url", "body")
"""Fields of a line of OpenAI's batch file."""
CHAT, TEXT, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
ENDPOINTS = (CHAT, TEXT, RESPONSES)
JSON_FIELDS = (
    *("messages", "response_format", "structured_outputs", "tools"),
    *("logit_bias", "refresh_interval", "media_io_kwargs"),
)
"""Objects and lists that a table may hold as JSON text."""
DATA_URI = {IMAGE: "data:image/png;base64,", VIDEO: "data:video/mp4;base64,"}
"""Beginning of the data URIs of files. The type need not be right: decoders look at the content."""
PARTS = {"image_url": IMAGE, "video_url": VIDEO}
REMOTE = ("data:", "http://", "https://")
"""Beginnings of URLs that are not paths, in lower case."""
REQUEST = "request"
"""Column of pickled ``RowRequest``."""
READERS = 8
"""Threads that read files of images."""


@dataclass(frozen=True)
class RowRequest:
    """A row as a request, or the reason why it is none."""

    row: int
    """Its number in the input."""
    id: str
    endpoint: str = CHAT
    body: Mapping[str, Any] = field(default_factory=dict)
    kept: Mapping[str, Any] = field(default_factory=dict)
    """Columns to copy to the output."""
    error: ApiError | None = None


class RequestBuilder:
    """Makes requests of rows."""

    def __init__(self, settings: BatchSettings, root: UPath) -> None:
        """``root`` is where relative paths start."""
        self._settings, self._root = settings, root
        self._threads = ThreadPoolExecutor(READERS)

    def requests(self, rows: Sequence[tuple[int, ReadRow]]) -> list[RowRequest]:
        """The requests of numbered rows; their files are read at the same time."""
        return list(self._threads.map(lambda row: self.request(*row), rows))

    def request(self, number: int, row: ReadRow) -> RowRequest:
        """The request of a row."""
        if isinstance(row, ApiError):
            return RowRequest(number, str(number), error=row)
        fields, columns = dict(row), self._settings.columns
        fields |= {name: fields.pop(column) for name, column in columns.items() if column in fields}
        given = fields.get("custom_id", fields.get("id"))
        name = str(number) if given is None else str(given)
        kept = {each: row[each] for each in self._settings.keep if each in row}
        try:
            endpoint, body = self._endpoint_and_body(fields)
            self._read_media(body)
        except ApiError as error:
            return RowRequest(number, name, kept=kept, error=error)
        return RowRequest(number, name, endpoint, body, kept)

    def _endpoint_and_body(self, fields: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        usual = {"model": self._settings.name, **self._settings.params}
        if "body" in fields:
            return _endpoint(fields), {**usual, **_object(fields["body"], "body")}
        ignored = {*SHORT_FIELDS, *self._settings.keep, *self._settings.drop}
        own = {name: _parsed(name, value) for name, value in fields.items() if name not in ignored}
        if "messages" not in own:
            own["messages"] = [{"role": "user", "content": self._content(fields)}]
        elif short := [name for name in SHORT_FIELDS[1:] if name in fields]:
            message = f"{short[0]}: messages and {short[0]} exclude each other; keep one of them"
            raise ApiError(400, message, param=short[0])
        return CHAT, {**usual, **own}

    def _content(self, fields: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The parts of the one message of a row without ``messages``: images before the text."""
        prompt = fields.get("prompt", self._settings.prompt)
        if prompt is None:
            message = "prompt: missing; give the row a prompt or messages, or set prompt for all rows"
            raise ApiError(400, message, code="missing_field", param="prompt")
        images = [each for name in ("image", "images") for each in _as_list(fields.get(name))]
        parts = [{"type": "image_url", "image_url": {"url": each}} for each in images]
        videos = [{"type": "video_url", "video_url": {"url": each}} for each in _as_list(fields.get("video"))]
        return [*parts, *videos, {"type": "text", "text": prompt}]

    def _read_media(self, body: Mapping[str, Any]) -> None:
        """Replace paths and bytes of images and videos by data URIs."""
        for part, param in _media_parts(body):
            inner, kind = part[part["type"]], PARTS[part["type"]]
            inner["url"] = self._data_uri(inner.get("url"), kind, f"{param}.{part['type']}.url")

    def _data_uri(self, medium: Any, kind: MediaKind, param: str) -> Any:
        if isinstance(medium, Mapping):  # as Hugging Face stores an image
            medium = medium.get("bytes") or medium.get("path")
        if isinstance(medium, str) and not medium[:8].lower().startswith(REMOTE):
            medium = self._content_of(medium, kind, param)
        if isinstance(medium, bytes):
            return DATA_URI[kind] + base64.b64encode(medium).decode()
        return medium

    def _content_of(self, path: str, kind: MediaKind, param: str) -> bytes:
        limits = self._settings.media
        limit = limits.image_bytes if kind is IMAGE else limits.video_bytes
        try:
            file = location(path) if "://" in path else self._root / path
            check_bytes(size := file_size(file), param, kind, limit)
            content = bytearray(size)
            read_into(file, 0, memoryview(content))
        except (OSError, UserError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            message = f"{param}: {path}: cannot be read ({reason}); check the path and media_root"
            raise ApiError(400, message, code=f"unreadable_{kind.name}", param=param) from None
        return bytes(content)


def _endpoint(fields: Mapping[str, Any]) -> str:
    url = fields.get("url", CHAT)
    if fields.get("method", "POST") != "POST" or url not in ENDPOINTS:
        given, usable = f"{fields.get('method', 'POST')} {url}", " or ".join(ENDPOINTS)
        message = f"url: {given} is no request of a batch; use POST {usable}"
        raise ApiError(400, message, code="invalid_url", param="url")
    return url


def _object(value: Any, name: str) -> dict[str, Any]:
    value = _parsed(name, value, (name,))
    if not isinstance(value, Mapping):
        raise ApiError(400, f"{name}: not an object; write a JSON object", code="invalid_field", param=name)
    return dict(value)


def _parsed(name: str, value: Any, names: Sequence[str] = JSON_FIELDS) -> Any:
    """A value of the field, parsed if it is JSON text."""
    if name not in names or not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        message = f"{name}: not JSON ({error}); write a JSON value"
        raise ApiError(400, message, code="invalid_json", param=name) from None


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def _media_parts(body: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """The image and video parts of a body and their paths. A body may be malformed: it is checked later."""
    for number, message in enumerate(_as_list(body.get("messages"))):
        content = message.get("content") if isinstance(message, Mapping) else None
        for index, part in enumerate(content if isinstance(content, list) else []):
            kind = str(part.get("type")) if isinstance(part, dict) else ""
            if kind in PARTS and isinstance(part.get(kind), dict):
                yield part, f"messages[{number}].content[{index}]"
