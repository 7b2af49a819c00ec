"""A body is parsed as JSON, although data URIs are cut out of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from serve.api.schemas.completion_requests import ChatRequest
from serve.api.transport import body_reading as reading
from serve.api.transport.body_reading import BodyReader
from serve.errors import ApiError

READER = BodyReader(2**20, media=3)
LINK = "data:image/png;base64,"
WORDS = st.text(st.sampled_from('ab+/="\\\n:,[]{}é中😀'), max_size=40)
URIS = st.text(st.sampled_from("AB+/="), max_size=60).map(LINK.__add__)
STRINGS = WORDS | URIS | st.tuples(WORDS, URIS).map("".join) | st.tuples(URIS, WORDS).map("".join)
NUMBERS = st.none() | st.booleans() | st.integers() | st.floats(-1e6, 1e6)
VALUES = st.recursive(
    NUMBERS | STRINGS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(STRINGS, inner, max_size=5),
    max_leaves=20,
)


@st.composite
def texts(draw: st.DrawFn) -> str:
    """JSON as encoders of several languages write it."""
    text = json.dumps(
        draw(VALUES), ensure_ascii=draw(st.booleans()), indent=draw(st.none() | st.integers(0, 3))
    )
    text = text.replace("/", "\\/") if draw(st.booleans()) else text  # PHP
    return text.replace("+", "\\u002B") if draw(st.booleans()) else text  # .NET


@given(texts(), st.integers(6, 40))
@example(json.dumps({"text": f'<img src="{LINK}AAAAAAAAAAAA">', LINK: [f"{LINK}A", f'{LINK}"']}), 8)
def test_a_body_is_parsed_as_json(text: str, piece: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "MIN_URI_BYTES", 4)
        patch.setattr(reading, "PIECE_BYTES", len(LINK) + piece)
        assert READER.parsed(text.encode()) == json.loads(text)


@given(st.binary(max_size=200) | texts().map(lambda text: text.encode()[1:]))
def test_other_bytes_are_refused_in_one_line(body: bytes) -> None:
    raised = None
    try:
        READER.parsed(body)
    except ApiError as error:
        raised = error
    assert raised is None or (raised.status in (400, 413) and "\n" not in raised.message)


def test_images_do_not_count_as_text() -> None:
    reader = BodyReader(10_000, media=2)
    uri = LINK + "A" * 50_000
    assert reader.parsed(json.dumps([uri, uri]).encode()) == [uri, uri]
    with pytest.raises(ApiError, match="besides its first 2 data URIs"):
        reader.parsed(json.dumps([uri, uri, uri]).encode())


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_body"),
        (b" \n", "invalid_body"),
        (b'{"a": "\\ud83d"}', "invalid_json"),
        (b'{"a": "\xff"}', "invalid_json"),
        (b'["%b\\ud83d"]' % (LINK + "A" * 5000).encode(), "invalid_json"),
        (b"[" * 15_000, "invalid_json"),
        (b"[" * 150_000, "body_too_complex"),
    ],
)
def test_what_is_not_json_is_refused(body: bytes, code: str) -> None:
    with pytest.raises(ApiError) as error:
        READER.parsed(body)
    assert error.value.code == code


def test_a_byte_order_mark_is_ignored() -> None:
    assert READER.parsed(b"\xef\xbb\xbf{}") == {}


@pytest.mark.parametrize("kind", ["text/plain", "", "application/x-www-form-urlencoded", "json", "text/json"])
def test_types_that_need_no_preflight_are_refused(kind: str) -> None:
    with pytest.raises(ApiError, match="Content-Type: application/json"):
        READER._read([b"{}"], kind, ChatRequest)


@pytest.mark.parametrize(
    "kind", ["application/json", "Application/JSON; charset=utf-8", "application/x+json"]
)
def test_json_of_any_kind_is_read(kind: str) -> None:
    body: Any = {"model": "m", "messages": [{"role": "user", "content": "?"}]}
    assert READER._read([json.dumps(body).encode()], kind, ChatRequest).model == "m"
