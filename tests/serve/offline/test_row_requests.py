"""A row becomes the request that a client would send: short forms, OpenAI's lines, images and videos."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from lladav.storage import location
from serve.api.schemas.completion_requests import ChatRequest, CompletionRequest
from serve.offline.row_requests import RequestBuilder, RowRequest
from tests.serve.images import encoded, sample_image, uri
from tests.serve.offline.settings import batch_settings

PNG = encoded(sample_image())
TEXT = {"type": "text", "text": "What?"}


def image(url: str = uri(PNG)) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "clip.mp4").write_bytes(b"clip")
    return tmp_path


def request(folder: Path, row: dict[str, Any], **given: Any) -> RowRequest:
    return RequestBuilder(batch_settings(**given), location(folder)).request(7, row)


def content(folder: Path, row: dict[str, Any], **given: Any) -> Any:
    """The content of the only message, of a request that the API accepts."""
    made = request(folder, row, **given)
    assert made.error is None
    ChatRequest.model_validate(made.body)
    [message] = made.body["messages"]
    return message["content"]


@pytest.mark.parametrize(
    "given",
    [
        {"image": "a.png"},
        {"images": ["a.png"]},
        {"image": PNG},
        {"image": {"bytes": PNG, "path": "elsewhere.png"}},
        {"image": {"path": "a.png"}},
        {"images": [{"bytes": PNG}]},
        {"image": uri(PNG)},
    ],
)
def test_an_image_is_a_path_or_bytes(folder: Path, given: dict[str, Any]) -> None:
    assert content(folder, {"prompt": "What?", **given}) == [image(), TEXT]
    absolute = {"prompt": "What?", "image": str(folder / "a.png")}
    assert content(folder / "none", absolute) == [image(), TEXT]


def test_images_come_before_the_text_and_a_video_is_one_part(folder: Path) -> None:
    assert content(folder, {"prompt": "What?", "images": ["a.png", PNG]}) == [image(), image(), TEXT]
    clip = {"type": "video_url", "video_url": {"url": uri(b"clip", "video/mp4")}}
    assert content(folder, {"prompt": "What?", "video": "clip.mp4"}) == [clip, TEXT]
    assert content(folder, {"prompt": "What?", "image": "https://host/a.png"})[0] == image(
        "https://host/a.png"
    )


def test_paths_in_messages_are_read(folder: Path) -> None:
    messages = [{"role": "user", "content": [image("a.png"), TEXT]}]
    assert content(folder, {"messages": messages}) == [image(), TEXT]
    assert content(folder, {"messages": json.dumps(messages)}) == [image(), TEXT]


def test_a_row_has_params_of_its_own_or_those_of_all_rows(folder: Path) -> None:
    row = {"prompt": "What?", "temperature": 0.5, "refresh_interval": '{"min": 1, "max": 4}'}
    given = {"params.temperature": "1.5", "params.max_tokens": "12", "params.stop": "[a, b]"}
    made = request(folder, row, **given)
    assert {name: made.body[name] for name in ("temperature", "max_tokens", "stop", "model")} == {
        "temperature": 0.5,
        "max_tokens": 12,
        "stop": ["a", "b"],
        "model": "llada-v-tiny",
    }
    assert made.body["refresh_interval"] == {"min": 1, "max": 4}


def test_columns_have_other_names_are_kept_or_dropped(folder: Path) -> None:
    row = {"qid": 3, "question": "What?", "label": 5, "split": "x"}
    given = {"columns.prompt": "question", "columns.id": "qid", "keep": ["label"], "drop": ["split"]}
    made = request(folder, row, **given)
    assert (made.id, made.kept) == ("3", {"label": 5})
    assert set(made.body) == {"model", "messages"}
    assert request(folder, {"prompt": "What?"}).id == "7"


def test_a_row_without_a_prompt_gets_that_of_all_rows(folder: Path) -> None:
    assert content(folder, {"image": "a.png"}, prompt="What?") == [image(), TEXT]
    assert content(folder, {"image": "a.png", "prompt": "What?"}, prompt="Who?") == [image(), TEXT]


def test_lines_of_openai_have_their_request_in_the_body(folder: Path) -> None:
    body = {"model": "other", "messages": [{"role": "user", "content": [image("a.png"), TEXT]}]}
    line = {"custom_id": "c", "method": "POST", "url": "/v1/chat/completions", "body": body}
    made = request(folder, line, **{"params.max_tokens": "9"})
    assert (made.id, made.body["model"], made.body["max_tokens"]) == ("c", "other", 9)
    assert made.body["messages"][0]["content"] == [image(), TEXT]
    text = request(folder, {**line, "url": "/v1/completions", "body": json.dumps({"prompt": "x"})})
    assert text.endpoint == "/v1/completions"
    CompletionRequest.model_validate(text.body)


@pytest.mark.parametrize(
    ("row", "code", "message"),
    [
        ({"image": "a.png"}, "missing_field", "prompt: missing"),
        ({"prompt": "x", "messages": []}, None, "messages and prompt exclude each other"),
        ({"prompt": "x", "image": "b.png"}, "unreadable_image", "b.png: cannot be read (No such file"),
        ({"prompt": "x", "image": "ftp://h/b.png"}, "unreadable_image", "ftp:// is not supported"),
        ({"prompt": "x", "video": "clip.mp4"}, "video_too_large", "4 bytes; a video may have 3 at most"),
        ({"prompt": "x", "messages": "["}, "invalid_json", "messages: not JSON"),
        ({"body": [], "url": "/v1/chat/completions"}, "invalid_field", "body: not an object"),
        (
            {"body": {}, "url": "/v1/embeddings"},
            "invalid_url",
            "POST /v1/embeddings is no request of a batch",
        ),
        ({"body": {}, "url": "/v1/completions", "method": "GET"}, "invalid_url", "GET /v1/completions"),
    ],
)
def test_a_bad_row_is_an_error_that_names_its_field(
    folder: Path, row: dict[str, Any], code: str | None, message: str
) -> None:
    error = request(folder, {"id": "bad", **row}, media__video_bytes=3).error
    assert error is not None
    assert error.code == code
    assert message in error.message


def test_malformed_messages_are_left_to_the_api(folder: Path) -> None:
    for messages in ("x", {"role": "user"}, [1], [{"content": [1, {"type": []}, {"type": "image_url"}]}]):
        assert request(folder, {"messages": json.dumps(messages)}).error is None


def test_data_uris_are_base64_of_the_file(folder: Path) -> None:
    [part, _] = content(folder, {"prompt": "x", "image": "a.png"})
    assert base64.b64decode(part["image_url"]["url"].partition(",")[2]) == PNG
