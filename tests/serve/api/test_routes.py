"""The API over plain HTTP: errors, streams, and log lines."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import socket
from typing import Any
from urllib.parse import urlsplit

import httpx2 as httpx
import pytest

from lladav import __version__
from lladav.checkpoint import weights_digest
from lladav.inputs.chat import ChatTokenizer
from serve.media.loader import MediaLoader
from serve.settings import Auth, KeySettings, ServeSettings
from tests.serve.apis import NAME, LocalEngines, app_of, serving
from tests.serve.images import encoded, sample_image, uri
from tests.waiting import wait_for

CHAT = "/v1/chat/completions"
QUESTION = [{"role": "user", "content": "What is this?"}]
DATE = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "date"}}}


def body(**given: Any) -> dict[str, Any]:
    content = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": uri(encoded(sample_image()))}},
    ]
    return {"model": NAME, "messages": [{"role": "user", "content": content}], "max_tokens": 16, **given}


def events(client: httpx.Client, path: str = CHAT, **given: Any) -> list[Any]:
    """The chunks of a stream."""
    with client.stream("POST", path, json=body(stream=True, **given)) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def content(chunks: list[Any]) -> str:
    return "".join(c["delta"].get("content", "") for chunk in chunks for c in chunk["choices"])


@pytest.mark.parametrize(
    ("given", "status", "param", "says"),
    [
        ({"temprature": 1}, 400, "temprature", "did you mean temperature"),
        ({"messages": []}, 400, "messages", "at least 1"),
        ({"messages": [{"role": "bot", "content": ""}]}, 400, "messages[0].role", "'assistant'"),
        ({"refresh_interval": {"min": 4, "max": 2}}, 400, "refresh_interval", "swap"),
        ({"refresh_interval": {"min": 65, "max": 70}}, 400, "refresh_interval", "1 to 64"),
        ({"threshold": 0.5, "steps": 4}, 400, None, "exclude each other"),
        ({"reveal": "entropy", "threshold": 0.5}, 400, "reveal", "exclude each other"),
        ({"steps": 5}, 400, None, "multiple of"),
        ({"n": 9}, 400, "n", "at most 4"),
        ({"stop": ["a"] * 33}, 400, "stop", "at most 32"),
        ({"stop": ""}, 400, "stop", "at least 1"),
        ({"stop": "x" * 257}, 400, "stop", "at most 256"),
        ({"stop": ["x", "x" * 257]}, 400, "stop[1]", "at most 256"),
        ({"max_tokens": 8, "max_completion_tokens": 9}, 400, "max_tokens", "differ"),
        ({"messages": [{"role": "system", "content": "x"}]}, 400, "messages[0].role", "user"),
        ({"messages": [{"role": "user", "content": "x" * 20_000}]}, 400, "messages", "shorten"),
        ({"response_format": DATE}, 400, "response_format.json_schema.schema.type", "date"),
        ({"effort": "heroic"}, 400, "effort", "fast"),
        ({"top_logprobs": 21, "logprobs": True}, 400, "top_logprobs", "20"),
        ({"seed": True}, 400, "seed", "valid integer"),
        ({"temperature": "1"}, 400, "temperature", "valid number"),
        ({"stream": 1}, 400, "stream", "valid boolean"),
        ({"refresh_interval": {"min": True, "max": 4}}, 400, "refresh_interval.min", "valid integer"),
    ],
)  # fmt: skip
def test_invalid_requests_are_refused_before_images_are_read(
    client: httpx.Client,
    monkeypatch: pytest.MonkeyPatch,
    given: Any,
    status: int,
    param: str | None,
    says: str,
) -> None:
    async def visuals(*_: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr(MediaLoader, "visuals", visuals)
    response = client.post(CHAT, json=body(**given))
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (status, param), error
    assert says in error["message"]
    assert "\n" not in error["message"]
    assert len(error["message"]) < 300


PART = {"type": "text", "text": "x" * 10_000}


@pytest.mark.parametrize(
    ("path", "given", "param"),
    [
        (CHAT, {"messages": [{"role": "user", "content": [PART] * 20}]}, "messages"),
        ("/v1/completions", {"prompt": "x" * 70_000, "suffix": "x" * 70_000}, "prompt"),
    ],
)
def test_texts_that_are_too_long_are_not_encoded(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, path: str, given: Any, param: str
) -> None:
    def encode(*_: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr(ChatTokenizer, "encode", encode)
    response = client.post(path, json={"model": NAME, **given})
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", param)


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"{", 400, "invalid_json"),
        (b"[]", 400, "invalid_body"),
        (b"\xff", 400, "invalid_json"),
        (b"", 400, "invalid_body"),
    ],
)
def test_bodies_that_are_not_objects_are_refused(
    client: httpx.Client, sent: bytes, status: int, code: str
) -> None:
    response = client.post(CHAT, content=sent, headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


def test_unknown_paths_and_methods(client: httpx.Client) -> None:
    assert client.get("/v1/nothing").json()["error"]["code"] == "not_found"
    assert client.get(CHAT).status_code == 405
    assert client.get("/v1/models/other").json()["error"]["code"] == "model_not_found"


def test_too_long_a_body_is_refused_before_it_is_read(api: str, served: ServeSettings) -> None:
    place = urlsplit(api)
    with socket.create_connection((str(place.hostname), place.port or 0)) as connection:
        length = served.limits.body_bytes + 1
        head = ("POST /v1/completions HTTP/1.1", "Host: localhost", f"Content-Length: {length}", "", "")
        connection.sendall("\r\n".join(head).encode())
        assert b" 413 " in connection.recv(4096).partition(b"\r\n")[0]


def test_a_body_without_a_length_is_counted(client: httpx.Client, served: ServeSettings) -> None:
    pieces = (b"x" * 2**20 for _ in range(served.limits.body_bytes // 2**20 + 1))
    response = client.post(CHAT, content=pieces)
    assert response.json()["error"]["code"] == "body_too_large"


def test_committed_text_is_only_ever_appended(client: httpx.Client) -> None:
    whole = client.post(CHAT, json=body()).json()
    chunks = events(client, stream_options={"include_usage": True})
    assert content(chunks) == whole["choices"][0]["message"]["content"]
    assert [chunk["usage"] is None for chunk in chunks] == [*[True] * (len(chunks) - 1), False]
    assert chunks[-1]["choices"] == []


def test_a_denoising_stream_shows_every_step(client: httpx.Client) -> None:
    first, *chunks = events(client, stream_mode="denoise", refresh_interval=4)
    assert first["denoise"] == {"index": 0, "step": 0, "canvas": 16, "reveal": [], "committed": 0}
    steps = [chunk["denoise"] for chunk in chunks if "denoise" in chunk]
    assert [step["step"] for step in steps] == list(range(1, 17))
    shown: dict[int, str] = {}
    for step in steps:
        for reveal in step["reveal"]:
            assert reveal["place"] not in shown
            assert 0 <= reveal["confidence"] <= 1
            shown[reveal["place"]] = reveal["text"]
        assert all(place in shown for place in range(step["committed"]))
    assert (
        content(chunks)
        == client.post(CHAT, json=body(refresh_interval=4)).json()["choices"][0]["message"]["content"]
    )


def test_the_template_is_on_the_canvas_from_the_first_step(client: httpx.Client) -> None:
    schema = {"type": "object", "properties": {"sure": {"type": "boolean"}}, "required": ["sure"]}
    shape = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    first, *chunks = events(client, stream_mode="denoise", response_format=shape)
    assert "".join(reveal["text"] for reveal in first["denoise"]["reveal"]).startswith('{"sure": ')
    assert isinstance(json.loads(content(chunks))["sure"], bool)


def test_answers_are_cut_at_max_tokens_though_blocks_are_whole(client: httpx.Client) -> None:
    answer = client.post(CHAT, json=body(max_tokens=5, block_length=4)).json()
    assert answer["usage"]["completion_tokens"] <= 5
    assert answer["choices"][0]["finish_reason"] == "length"
    assert content(events(client, max_tokens=5, block_length=4)) == answer["choices"][0]["message"]["content"]


def test_load_generators_get_full_answers_and_continuous_usage(client: httpx.Client) -> None:
    asked = {"include_usage": True, "continuous_usage_stats": True}
    *chunks, last = events(client, ignore_eos=True, temperature=5.0, stream_options=asked)
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[-1] == last["usage"]["completion_tokens"] == 16
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"


def test_an_effort_is_a_preset_that_the_request_overrides(client: httpx.Client) -> None:
    def interval(**given: Any) -> int:
        return client.post(CHAT, json=body(**given)).json()["usage"]["refresh_interval"]

    assert interval() == 1
    assert interval(effort="balanced") == 4
    assert interval(effort="fast") == 8
    assert interval(effort="fast", refresh_interval=3) == 3
    assert client.post(CHAT, json=body(effort="fast", tokens_per_step=2)).status_code == 200


def test_a_whole_number_may_be_written_as_a_float(client: httpx.Client) -> None:
    given = body(max_tokens=8.0, n=1.0, seed=3.0, refresh_interval=2.0)
    answer, same = client.post(CHAT, json=given).json(), client.post(CHAT, json=body(max_tokens=8)).json()
    assert answer["usage"]["completion_tokens"] == same["usage"]["completion_tokens"]
    assert client.post(CHAT, json=body(max_tokens=8.5)).json()["error"]["param"] == "max_tokens"


def test_the_deadline_is_kept(client: httpx.Client, engines: LocalEngines) -> None:
    response = client.post(CHAT, json=body(deadline_ms=1, max_tokens=512))
    assert response.status_code == 504
    assert response.json()["error"]["code"] == "deadline_exceeded"
    endless = {"max_tokens": 512, "stream_mode": "denoise", "ignore_eos": True, "messages": QUESTION}
    _, *_, last = events(client, deadline_ms=150, **endless)
    assert last["error"]["code"] == "deadline_exceeded"
    _wait_until_empty(engines)


def test_settings_without_effect_are_warnings(client: httpx.Client) -> None:
    assert "top_p" in client.post(CHAT, json=body(top_p=0.5)).json()["warnings"][0]
    first, *others = events(client, top_p=0.5)
    assert "top_p" in first["warnings"][0]
    assert not any("warnings" in chunk for chunk in others)


def test_the_fingerprint_names_version_and_weights(client: httpx.Client, served: ServeSettings) -> None:
    name = f"fp_{__version__}_{weights_digest(served.model)}"
    assert client.post(CHAT, json=body()).json()["system_fingerprint"] == name
    assert {chunk["system_fingerprint"] for chunk in events(client)} == {name}
    assert client.get("/version").json() == {"version": __version__}


def test_null_means_left_out(client: httpx.Client) -> None:
    given = dict.fromkeys(("n", "stream", "logprobs", "stop", "seed", "temperature", "refresh_interval"))
    answer = client.post(CHAT, json=body(**given)).json()
    assert answer == {**client.post(CHAT, json=body()).json(), **{k: answer[k] for k in ("id", "created")}}


def test_an_engine_error_in_a_stream_is_its_last_event(
    client: httpx.Client, engines: LocalEngines, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, steps = engines.engine._runner.step, iter(range(3))

    def fails(rows: Any) -> Any:
        if next(steps, None) is None:
            raise RuntimeError("the card is on fire")
        return forward(rows)

    monkeypatch.setattr(engines.engine._runner, "step", fails)
    *_, last = events(client, stream_mode="denoise")
    assert last["error"]["code"] == "engine_error"
    assert last["error"]["type"] == "server_error"


def test_an_unexpected_error_in_a_stream_is_its_last_event(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: Any) -> Any:
        raise ZeroDivisionError("at /home/secret")

    monkeypatch.setattr("serve.api.answers.canvas_view.CanvasView.step", fails)
    with caplog.at_level(logging.INFO, "ray.serve.requests"):
        *_, last = events(client, stream_mode="denoise")
        # The middleware logs its line after the last byte is sent.
        wait_for(lambda: caplog.records[-1].getMessage().startswith("{"))
    assert last["error"]["code"] == "internal_error"
    assert "secret" in caplog.text
    assert json.loads(caplog.records[-1].getMessage())["error"] == "internal_error"


def test_a_client_that_disconnects_frees_its_rows(client: httpx.Client, engines: LocalEngines) -> None:
    given = {"stream_mode": "denoise", "max_tokens": 512, "n": 4, "temperature": 5.0, "ignore_eos": True}
    endless = body(stream=True, **given)
    for _ in range(5):
        with client.stream("POST", CHAT, json=endless) as response:
            lines = response.iter_lines()  # kept: the connection ends with it
            next(lines)
            assert engines.worker.load.rows_used
        _wait_until_empty(engines)


def _wait_until_empty(engines: LocalEngines) -> None:
    wait_for(lambda: not engines.worker.load.rows_used)


def test_requests_have_ids_and_a_line_in_the_log(
    client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "ray.serve.requests"):
        given = client.post(CHAT, json=body(), headers={"x-request-id": "mine-1"})
        client.get("/v1/nothing?secret=1", headers={"x-request-id": "a secret"})
        wait_for(lambda: len(caplog.records) >= 2)
    assert given.headers["x-request-id"] == "mine-1"
    first, second = (json.loads(record.getMessage()) for record in caplog.records)
    assert (first["request"], first["endpoint"], first["status"]) == ("mine-1", CHAT, 200)
    assert first["forwards"] >= first["refreshes"] > 0
    assert first["answer"] == given.json()["id"]
    assert second["endpoint"] == "other"
    said = " ".join(record.getMessage() for record in caplog.records)
    assert not any(word in said for word in ("What is this", "secret", "nothing", "base64"))


def test_paths_work_below_a_prefix(served: ServeSettings, engines: LocalEngines) -> None:
    key = KeySettings(name="a", sha256="0" * 64)
    settings = served.model_copy(update={"auth": Auth.keys, "keys": [key]})

    async def statuses() -> list[int]:
        transport = httpx.ASGITransport(app_of(settings, engines), root_path="/below")
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as asked:
            paths = ("/below/health", "/below/", "/below/playground/index.html", "/below/v1/models")
            return [(await asked.get(path)).status_code for path in paths]

    assert asyncio.run(statuses()) == [200, 200, 200, 401]


def test_requests_of_one_id_are_both_answered(client: httpx.Client) -> None:
    named = {"x-request-id": "same"}
    with client.stream("POST", CHAT, json=body(stream=True, max_tokens=128), headers=named) as response:
        other = client.post(CHAT, json=body(), headers=named)
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    assert json.loads(lines[-2])["choices"][0]["finish_reason"]
    assert other.json()["id"] != json.loads(lines[0])["id"]


def test_health_readiness_and_the_document(client: httpx.Client) -> None:
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/ready").json() == {"status": "ok"}
    paths = client.get("/openapi.json").json()["paths"]
    assert {CHAT, "/v1/completions", "/v1/models", "/metrics", "/ready"} <= set(paths)
    assert "text/event-stream" in paths[CHAT]["post"]["responses"]["200"]["content"]


def test_an_unexpected_error_is_reported_without_its_reason(
    served: ServeSettings, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(LocalEngines):
        def __init__(self) -> None:
            pass

        async def answer(self, request: Any) -> Any:
            raise ZeroDivisionError(f"{request.id} at /home/secret")

    with serving(served, Broken()) as address:
        response = httpx.post(f"{address}{CHAT}", json=body())
    assert response.status_code == 500
    assert "secret" not in response.text
    assert response.headers["x-request-id"] in caplog.text


def test_an_invalid_image_is_refused_with_its_path(client: httpx.Client) -> None:
    bad = f"data:image/png;base64,{base64.b64encode(b'not an image').decode()}"
    content = [{"type": "text", "text": "?"}, {"type": "image_url", "image_url": {"url": bad}}]
    response = client.post(CHAT, json=body(messages=[{"role": "user", "content": content}]))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "messages[0].content[1].image_url.url"
