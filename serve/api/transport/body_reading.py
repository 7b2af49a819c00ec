"""Parse the body of a request, with time and memory bounded before parsing starts.

A JSON parser holds the GIL from the first byte to the last, so it blocks the event loop from any thread.
Therefore data URIs, which may fill most of a body, are cut out and parsed in pieces; the rest is
limited in bytes and in values. The limits are far above any request that fits into the model's context.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.requests import Request

from serve.api.transport.context import RequestContext
from serve.api.transport.validation import body_error, not_an_object
from serve.concurrency import ThreadOffloader
from serve.errors import ApiError

Kind = TypeVar("Kind", bound=BaseModel)
T = TypeVar("T")

THREADS = 2
URI_START = b'"data:'
MIN_URI_BYTES = 4096
"""Bytes of the shortest data URI that is cut out."""
PIECE_BYTES = 2**20
"""Bytes of a data URI that one call parses."""
MAX_ESCAPE_BYTES = 6
"""Bytes of the longest escape, as in ``\\ud83d``."""
MAX_VALUES = 20_000
"""Limit of the values in a body, including names of fields."""
MAX_UNQUOTED_BYTES = 2**17
"""Limit of the bytes outside of strings and white space: long integers are slow to parse."""
SPACE = b" \t\r\n"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class BodyReader:
    """Parses bodies in its own threads."""

    def __init__(self, text_bytes: int, media: int) -> None:
        """``text_bytes`` limits a body without its first ``media`` data URIs."""
        self._text_bytes, self._media = text_bytes, media
        self._offload = ThreadOffloader("bodies", THREADS)

    async def of(self, request: Request, kind: type[Kind], then: Callable[[Kind], T]) -> T:
        """What ``then`` makes of the body of a request inside a route; raises ``ApiError``."""
        content_type = request.headers.get("content-type", "")
        return await self.read(RequestContext.of(request).body, content_type, kind, then)

    async def read(
        self, body: Sequence[bytes], content_type: str, kind: type[Kind], then: Callable[[Kind], T]
    ) -> T:
        """What ``then`` makes, in a thread, of a body that is given in chunks; raises ``ApiError``."""
        return await self._offload(lambda: then(self._read(body, content_type, kind)))

    def _read(self, body: Sequence[bytes], content_type: str, kind: type[Kind]) -> Kind:
        if not _is_json(content_type):
            raise not_an_object()
        tree = self.parsed(b"".join(body))
        try:
            return kind.model_validate(tree)
        except ValidationError as error:
            raise body_error(error, tree, kind) from None

    def parsed(self, body: bytes) -> Any:
        """The JSON value of a body; raises ``ApiError`` if it is not JSON or too large."""
        rest, uris = self._without_uris(body.removeprefix(BYTE_ORDER_MARK))
        self._check(rest)
        if not rest.strip(SPACE):
            raise not_an_object()
        tree = parse_json(rest)
        return _restored(tree, {name: _unescaped(uri) for name, uri in uris.items()}) if uris else tree

    def _without_uris(self, body: bytes) -> tuple[bytes, dict[str, bytes]]:
        """The body with a placeholder for each long data URI, and the data URIs by placeholder.

        A data URI after an escaped quote is a part of a text and stays in it.
        """
        mark, uris, kept, start = uuid.uuid4().hex, dict[str, bytes](), list[bytes](), 0
        size = 0
        while len(uris) < self._media and size <= self._text_bytes:
            at = body.find(URI_START, start)
            end = body.find(b'"', at + 1)
            if at < 0 or end < 0:
                break
            uri = body[at + 1 : end]
            cut = len(uri) >= MIN_URI_BYTES and body[at - 1 : at] != b"\\" and _has_pieces(uri)
            kept.append(body[start : at + 1 if cut else end])
            if cut:
                uris[name := f"{mark}-{len(uris)}"] = uri
                kept.append(name.encode())
            start, size = end, size + len(kept[-1]) + MIN_URI_BYTES * cut
        return b"".join((*kept, body[start:])), uris

    def _check(self, rest: bytes) -> None:
        if len(rest) > self._text_bytes:
            message = (
                f"body: {len(rest)} bytes besides its first {self._media} data URIs are more than "
                f"{self._text_bytes}; send less text"
            )
            raise ApiError(413, message, code="body_too_large")
        check_complexity(rest)


def check_complexity(text: bytes, field: str | None = None) -> None:
    """Raise ``ApiError`` for JSON text that takes long to parse: the text of a field, or a body."""
    bare = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    strings = bare.count(b'"') // 2
    outside = b"".join(bare.split(b'"')[::2]).translate(None, SPACE) if strings <= MAX_VALUES else b""
    values = strings + sum(outside.count(mark) for mark in (b",", b"[", b"{"))
    if values > MAX_VALUES or len(outside) > MAX_UNQUOTED_BYTES:
        most = f"{MAX_VALUES} values, or {MAX_UNQUOTED_BYTES} bytes of numbers and marks"
        message = f"{field or 'body'}: more than {most}; send fewer parts"
        raise ApiError(413, message, code="body_too_complex", param=field)


def _is_json(content_type: str) -> bool:
    """Whether a type is JSON. Browsers let pages of other sites send some other types without a preflight."""
    kind, _, subtype = content_type.partition(";")[0].strip().lower().partition("/")
    return kind == "application" and (subtype == "json" or subtype.endswith("+json"))


def parse_json(text: bytes, field: str | None = None) -> Any:
    """The value of JSON text, of a field or of a body; raises ``ApiError``."""
    try:
        return from_json(text)
    except ValueError as error:
        message = f"{field or 'body'}: not JSON ({error}); send an object"
        raise ApiError(400, message, code="invalid_json", param=field) from None


def _has_pieces(text: bytes) -> bool:
    """Whether a string may be cut before any escape: it is ASCII, has no surrogate pairs and no escaped
    backslash, and does not end with an escape."""
    pieces = (
        text[start : start + PIECE_BYTES + MAX_ESCAPE_BYTES] for start in range(0, len(text), PIECE_BYTES)
    )
    return not text.endswith(b"\\") and all(
        piece.isascii() and not any(pair in piece for pair in (b"\\\\", b"\\ud", b"\\uD")) for piece in pieces
    )


def _unescaped(text: bytes) -> str:
    """A JSON string, parsed in pieces that end outside of escapes."""
    pieces, start = list[str](), 0
    while start < len(text):
        end = start + PIECE_BYTES
        if end < len(text) and (escape := text.rfind(b"\\", end - MAX_ESCAPE_BYTES, end)) > 0:
            end = escape
        pieces.append(parse_json(b'"%b"' % text[start:end]))
        start = end
    return "".join(pieces)


def _restored(value: Any, strings: Mapping[str, str]) -> Any:
    """A JSON value with strings in place of their placeholders; the parser has bounded its depth."""
    if isinstance(value, str):
        return strings.get(value, value)
    if isinstance(value, list):
        return [_restored(each, strings) for each in value]
    if isinstance(value, dict):
        return {_restored(name, strings): _restored(each, strings) for name, each in value.items()}
    return value
