"""Records are parsed in every supported form; any other is refused with the key at fault."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from data.records.parsing import parse, record_id
from data.records.record import BadSample, Reason, Record
from tests.data import build

TURNS = build.turns("<image>\nWhat?", "That.")
MESSAGES = [{"role": "user", "content": "<image>\nWhat?"}, {"role": "assistant", "content": "That."}]
PIXELS = b"\x89PNG"
DATA_URL = f"data:image/png;base64,{base64.b64encode(PIXELS).decode()}"


def parsed(**fields: Any) -> Record:
    return parse(json.dumps({"id": "r", "conversations": TURNS} | fields).encode())


def asked(*parts: Any, **fields: Any) -> Record:
    """A record in OpenAI's form whose question consists of parts."""
    messages = [{"role": "user", "content": list(parts)}, MESSAGES[1]]
    return parse(json.dumps({"messages": messages} | fields).encode())


def text(value: str) -> dict[str, str]:
    return {"type": "text", "text": value}


@pytest.mark.parametrize(
    ("fields", "media"),
    [
        ({}, []),
        ({"image": None}, []),
        ({"image": ""}, []),
        ({"image": []}, []),
        ({"image": "a.png"}, ["a.png"]),
        ({"image": ["a.png", "b.png"]}, ["a.png", "b.png"]),
        ({"image": [["a.png"], ["b.png", None]]}, ["a.png", "b.png"]),
        ({"images": ["a.png"]}, ["a.png"]),
        ({"images": [{"path": "a.png", "bytes": None}]}, ["a.png"]),
        ({"image": "a.png", "images": ["a.png"]}, ["a.png"]),
        ({"image": "file:///data/a%20b.png"}, ["/data/a b.png"]),
        ({"image": DATA_URL}, [PIXELS]),
        ({"video": "c.mp4"}, ["c.mp4"]),
        ({"videos": ["c.mp4"]}, ["c.mp4"]),
    ],
)
def test_media_are_named_in_any_of_these_ways(fields: dict[str, Any], media: list) -> None:
    record = parsed(**fields)
    assert record.media == media
    assert record.is_video == bool({"video", "videos"} & fields.keys())


@pytest.mark.parametrize(
    "turns",
    [
        {"conversations": TURNS},
        {"messages": MESSAGES},
        {"conversations": MESSAGES},
        {"messages": TURNS},
        {"conversations": None, "messages": MESSAGES},
        {"messages": [turn | {"from": None, "value": None} for turn in MESSAGES]},
    ],
)
def test_turns_have_the_keys_of_llava_or_openai(turns: dict[str, Any]) -> None:
    conversations = parse(json.dumps(turns).encode()).conversations
    assert [turn["value"] for turn in conversations] == ["<image>\nWhat?", "That."]


@pytest.mark.parametrize("key", ["messages", "conversations"])
def test_the_system_prompt_goes_first(key: str) -> None:
    record = parse({"system": "Be brief.", key: MESSAGES})
    assert record.conversations[0] == {"from": "system", "value": "Be brief."}
    own = [{"role": "system", "content": "Mine."}, *MESSAGES]
    assert parse({"system": "Be brief.", "messages": own}).conversations[0]["value"] == "Mine."


def test_parts_are_written_as_the_server_writes_them() -> None:
    image, other = {"type": "image_url", "image_url": {"url": "a.png"}}, {"type": "image", "image": "b.png"}
    record = asked(text("Same?"), image, other)
    assert record.conversations[0]["value"] == "<image>\n<image>\nSame?"
    assert record.media == ["a.png", "b.png"]
    between = asked(text("This"), image, text("or this?"), {"type": "image_url", "image_url": DATA_URL})
    assert between.conversations[0]["value"] == "This\n<image>\nor this?\n<image>"
    assert between.media == ["a.png", PIXELS]


def test_parts_without_a_reference_use_the_images_of_the_record() -> None:
    record = asked(text("Same?"), {"type": "image"}, {"type": "image"}, images=["a.png", "b.png"])
    assert record.conversations[0]["value"] == "<image>\n<image>\nSame?"
    assert record.media == ["a.png", "b.png"]


def test_a_part_can_be_a_video() -> None:
    record = asked({"type": "video", "video": "c.mp4"}, text("What?"))
    assert (record.media, record.is_video) == (["c.mp4"], True)


@pytest.mark.parametrize(
    ("fields", "reason", "message"),
    [
        ({"image": 3}, "bad_record", "'image' is a number, not a path"),
        ({"images": [["a.png", 3]]}, "bad_record", "'images' is a number"),
        ({"image": {"url": "a.png"}}, "bad_record", "'image' is an object without bytes and path"),
        ({"image": {"bytes": "abc"}}, "bad_record", "'image.bytes' is 'abc', not bytes"),
        ({"image": "a.png", "images": ["b.png"]}, "bad_record", "'image' and 'images' name different files"),
        ({"image": "https://x/a.png"}, "bad_record", "'image' is a web address"),
        ({"image": "data:image/png;base64,#"}, "bad_record", "'image' is a data URL that cannot be read"),
        ({"image": "data:image/png,x"}, "bad_record", "it is not in base64"),
        ({"image": "a\0.png"}, "bad_record", "'image' holds a NUL"),
        ({"image": "file:///a%00.png"}, "bad_record", "'image' holds a NUL"),
        ({"image": "\ud83d.png"}, "bad_text", r"'image' holds '\ud83d', half of a surrogate pair"),
        ({"videos": ["a.mp4", "b.mp4"]}, "bad_record", "'videos' names 2 files"),
        ({"conversations": 3}, "bad_record", "'conversations' is a number, not a list of turns"),
        ({"conversations": []}, "bad_record", "'conversations' is an empty list, not a list of turns"),
        ({"conversations": None}, "bad_record", "'conversations' is missing"),
        ({"conversations": [3]}, "bad_record", "'conversations[0]' is a number, not a turn"),
        ({"conversations": [{"from": ["human"], "value": ""}]}, "unknown_role", "from a list"),
        (
            {"conversations": [{"from": "tool", "value": ""}]},
            "unknown_role",
            "'conversations[0]' is from 'tool'",
        ),
        (
            {"conversations": [{"from": "gpt", "value": 3}]},
            "bad_record",
            "'conversations[0].value' is a number",
        ),
        (
            {"conversations": build.turns("Hi", "\ud83d!")},
            "bad_text",
            r"'conversations[1].value' holds '\ud83d', half of a surrogate pair, at character 0",
        ),
    ],
)
def test_a_wrong_value_is_refused_with_its_key(fields: dict[str, Any], reason: str, message: str) -> None:
    with pytest.raises(BadSample) as bad:
        parsed(**fields)
    assert bad.value.reason == reason
    assert message in bad.value.detail
    bad.value.detail.encode()


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("text", "'messages[0].content[1]' is 'text', not a part"),
        ({"type": "audio"}, "'messages[0].content[1].type' is 'audio'"),
        ({"type": ["text"]}, "'messages[0].content[1].type' is a list"),
        ({"type": "text"}, "'messages[0].content[1].text' is missing"),
        ({"type": "image_url", "image_url": {"url": 3}}, "'messages[0].content[1].image_url' is a number"),
    ],
)
def test_a_part_of_another_kind_is_refused_with_its_key(part: Any, message: str) -> None:
    with pytest.raises(BadSample) as bad:
        asked(text("Hi"), part)
    assert message in bad.value.detail


def test_parts_and_a_list_that_differ_are_refused() -> None:
    with pytest.raises(BadSample, match="'images' and parts of messages name different files"):
        asked({"type": "image", "image": "a.png"}, images=["b.png"])


@pytest.mark.parametrize("content", [None, 3])
def test_the_key_of_content_is_that_of_the_role(content: Any) -> None:
    with pytest.raises(BadSample, match=r"'messages\[0\]\.content' is"):
        parse({"messages": [{"role": "user", "content": content}]})


NOT_JSON = {
    "nothing": b"",
    "a brace": b"{",
    "not UTF-8": b'"\xff"',
    "not text": b"\xff\xfe",
    "a number of 5000 digits": b'{"id": ' + b"1" * 5000 + b"}",
    "a tower of brackets": b"[" * 100_000 + b"]" * 100_000,
}


@pytest.mark.parametrize("raw", NOT_JSON.values(), ids=NOT_JSON)
def test_text_that_is_not_json_is_refused(raw: bytes) -> None:
    with pytest.raises(BadSample) as bad:
        parse(raw)
    assert bad.value.reason is Reason.bad_json
    assert record_id(raw) == ""


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, ""),
        ("r", "r"),
        (7, "7"),
        (float("nan"), "nan"),
        ([1], ""),
        ({"a": 1}, ""),
        ("\ud83d", r"\ud83d"),
    ],
)
def test_an_id_of_any_type_becomes_text(value: Any, shown: str) -> None:
    assert parsed(id=value).id == record_id(json.dumps({"id": value}).encode()) == shown


def test_an_id_can_be_bytes() -> None:
    assert record_id({"id": b"r\xff"}) == r"r\xff"
