"""No request blocks the event loop of an ingress: neither hostile ones nor the largest within the limits."""

from __future__ import annotations

import asyncio
import json
import pickle
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image

from lladav.decoding.engine import Decoded
from serve.engine.client import Engines
from serve.engine.messages import Delta, EngineRequest, Event, Finished
from serve.settings import ServeSettings
from tests.serve.apis import NAME, app_of, settings_of
from tests.serve.asgi import Answer, ask, parts
from tests.serve.images import encoded, uri
from tests.serve.stalls import frozen_heap, longest_stall

LIMIT = 0.05
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
POSITIONS, TOKENS, CHOICES = 16384, 2048, 4
CHARACTERS = 8 * POSITIONS
BODY = 32 * 2**20
SHOWN = 50


class Answers(Engines):
    """Engines that have all tokens at once; requests are pickled, as by Ray."""

    async def answer(self, request: EngineRequest) -> list[Finished]:
        pickle.dumps(request, protocol=5)
        draw, length = random.Random(0), request.options.max_tokens
        tokens = [draw.randrange(64, 300) for _ in range(length)]
        decoded = Decoded(tokens, [0.5] * length, forwards=length, refreshes=1, positions=length)
        return [Finished(choice, decoded, 1) for choice in range(request.choices)]

    async def events(self, request: EngineRequest) -> AsyncGenerator[list[Event], None]:
        for finished in await self.answer(request):
            tokens, confidences = finished.answer.tokens, finished.answer.confidences
            step = len(tokens) if request.stream_mode is None else 32
            for at in range(0, len(tokens), step):
                some = slice(at, at + 32)
                yield [Delta(finished.choice, at, at + 32, tokens[some], confidences[some])]
            yield [finished]


@pytest.fixture(scope="module")
def large(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ServeSettings:
    """Settings of a model with LLaDA-V's context and images, and with small weights."""
    folder = tmp_path_factory.mktemp("large")
    config = json.loads((model_folder / "config.json").read_text())
    config["max_position_embeddings"] = POSITIONS
    side, grid = 384, config["lladav"]["images"]["grid"]
    config["vision_config"] |= {"image_size": side, "patch_size": 14}
    sizes = [[side * rows, side * columns] for rows in range(1, grid + 1) for columns in range(1, grid + 1)]
    config["image_grid_pinpoints"] = sizes
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "model.safetensors"):
        (folder / name).write_bytes((model_folder / name).read_bytes())
    return settings_of(folder, limits__max_tokens=TOKENS, limits__choices=CHOICES, limits__body_bytes=BODY)


def user(content: Any, **given: Any) -> dict[str, Any]:
    return {"model": NAME, "messages": [{"role": "user", "content": content}], **given}


def text(content: str) -> dict[str, Any]:
    return {"type": "text", "text": content}


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def shaped(schema: Any, **given: Any) -> dict[str, Any]:
    shape = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    return user("?", response_format=shape, max_tokens=TOKENS, **given)


def record(fields: dict[str, Any]) -> dict[str, Any]:
    """An object that has all of these properties."""
    return {"type": "object", "properties": fields, "required": list(fields)}


def matching(pattern: str) -> dict[str, Any]:
    return record({"text": {"type": "string", "pattern": pattern}})


def doubling(use: Callable[[dict[str, str]], dict[str, Any]]) -> dict[str, Any]:
    """A few lines that expand to a billion values; ``use`` makes a schema that refers to one twice."""
    definitions = {f"d{n}": use({"$ref": f"#/$defs/d{n + 1}"}) for n in range(30)}
    return {"$defs": {**definitions, "d30": {"type": "null"}}, "$ref": "#/$defs/d0"}


def noise(side: int) -> str:
    pixels = np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8)
    return uri(encoded(Image.fromarray(pixels), compress_level=0))


def filled(begin: bytes, piece: bytes, end: bytes, size: int = BODY) -> bytes:
    """A body that repeats a piece up to a size."""
    return begin + piece * ((size - len(begin) - len(end)) // len(piece)) + end


def chat(begin: bytes, piece: bytes, end: bytes, size: int) -> bytes:
    """A body with one message, whose content repeats a piece."""
    head = b'{"model":"%b","messages":[{"role":"user","content":' % NAME.encode()
    return filled(head + begin, piece, end + b"}]}", size)


TOO_LONG, TOO_WIDE = (400, "context_length_exceeded"), (400, "schema_too_long")
TOO_COMPLEX, INVALID = (413, "body_too_complex"), (400, "invalid_field")
MISSING = (400, "missing_field")
PNG = b"data:image/png;base64,"
RAW = b'{"model":"' + NAME.encode() + b'",'
DIGITS = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}, "maxItems": 600}
LARGEST = 2**20  # bytes of a body besides its images


@dataclass(frozen=True)
class Case:
    """A request and its expected response."""

    body: Callable[[], Any]
    status: int
    code: str | None = None
    path: str = CHAT
    headers: dict[str, str] = field(default_factory=dict)


CASES: dict[str, Case] = {
    "prose, longest": Case(lambda: user("the quick brown fox " * (CHARACTERS // 20)), *TOO_LONG),
    "a word, longest": Case(lambda: user("a" * CHARACTERS), *TOO_LONG),
    "letters and digits, longest": Case(lambda: user("x1" * (CHARACTERS // 2)), *TOO_LONG),
    "chinese, longest": Case(lambda: user("\u4e2d" * CHARACTERS), *TOO_LONG),
    "a text that fits": Case(lambda: user("a" * 12_000), 200),
    "texts of a megabyte": Case(lambda: user([text("x" * 900_000)] * 3), 413, "body_too_large"),
    "a little too long": Case(lambda: user("x" * (CHARACTERS + 1)), *TOO_LONG),
    "prompt and suffix": Case(
        lambda: {"model": NAME, "prompt": "x " * (CHARACTERS // 4), "suffix": "y " * (CHARACTERS // 4)},
        *TOO_LONG, TEXT,
    ),
    "escapes": Case(lambda: chat(b'"', b"\\u0041", b'"', LARGEST), *TOO_LONG),
    "an escaped text": Case(lambda: json.dumps(user("\u4e2d" * CHARACTERS)).encode(), *TOO_LONG),
    "an endless string": Case(lambda: filled(RAW + b'"user":"', b"x", b'"}'), 413, "body_too_large"),
    "empty lists": Case(lambda: filled(b"[", b"[],", b"[]]"), 413, "body_too_large"),
    "as many empty lists": Case(lambda: filled(b"[", b"[],", b"[]]", LARGEST), *TOO_COMPLEX),
    "as few empty lists": Case(lambda: filled(b"[", b"[],", b"[]]", 29_000), 400, "invalid_body"),
    "strings": Case(lambda: filled(b"[", b'"",', b'""]', LARGEST // 2), *TOO_COMPLEX),
    "quotes": Case(lambda: filled(b"[", b'\\"', b"]", LARGEST // 2), 400, "invalid_json"),
    "backslashes": Case(lambda: filled(b'["', b"\\", b'"]', LARGEST // 2), 400, "invalid_body"),
    "lists in lists": Case(lambda: b"[" * 10_000, 400, "invalid_json"),
    "long integers": Case(lambda: filled(b"[", b"1" * 4300 + b",", b"1]", 2**17), 400, "invalid_body"),
    "more long integers": Case(lambda: filled(b"[", b"1" * 4300 + b",", b"1]", LARGEST // 2), *TOO_COMPLEX),
    "spaces": Case(lambda: filled(b"", b" ", b"", LARGEST // 2), 400, "invalid_body"),
    "unknown fields": Case(
        lambda: RAW[:-1] + b"".join(b',"%d":1' % n for n in range(9000)) + b"}", *INVALID
    ),
    "a field with a long name": Case(lambda: {**user("?"), "x" * 500_000: 1}, 400, "unknown_field"),
    "pairs of metadata": Case(lambda: user("?", metadata={str(n): n for n in range(9000)}), *INVALID),
    "messages": Case(
        lambda: {"model": NAME, "messages": [{"role": "user", "content": ""}] * 2000}, 400, None
    ),
    "wrong messages": Case(lambda: {"model": NAME, "messages": [1] * 19_000}, *INVALID),
    "empty messages": Case(lambda: {"model": NAME, "messages": [{}] * 9000}, *MISSING),
    "parts": Case(lambda: user([text("x")] * 2800), 200),
    "wrong parts": Case(lambda: user([{"type": "text"}] * 4500), *MISSING),
    "stops": Case(lambda: user("?", stop=["x" * 256] * 3000), 400, None),
    "wrong stops": Case(lambda: user("?", stop=[""] * 9900), *INVALID),
    "another model": Case(lambda: {**user("?"), "model": "x" * 500_000}, 404, "model_not_found"),
    "an address": Case(lambda: user([image("https://" + "a." * 200_000)]), 400, "fetch_disabled"),
    "eight images": Case(lambda: user([*[image(noise(1020))] * 7, image(noise(1019)), text("?")]), 200),
    "an image": Case(lambda: user([image(noise(1860))]), 200),
    "an image with escapes": Case(
        lambda: json.dumps(user([image(noise(1860))])).replace("/", "\\/").encode(), 200
    ),
    "an image of escapes": Case(
        lambda: chat(b'[{"type":"image_url","image_url":{"url":"' + PNG, b"\\/", b'"}}]', 26 * 2**20),
        400, "invalid_image",
    ),
    "images of no bytes": Case(lambda: user([image(PNG.decode() + "A")] * 1900), 400, "too_many_images"),
    "an image that is none": Case(
        lambda: user([image(PNG.decode() + "A" * (13 * 2**20))]), 400, "invalid_image"
    ),
    "an image that is not base64": Case(
        lambda: user([image(PNG.decode() + "?" * (13 * 2**20))]), 400, "invalid_image"
    ),
    "an image that is too large": Case(
        lambda: user([image(PNG.decode() + "A" * (30 * 2**20))]), 413, "image_too_large"
    ),
    "a text that looks like an image": Case(
        lambda: user(PNG.decode() + "A" * (30 * 2**20)), *INVALID
    ),
    "a schema of constants": Case(
        lambda: shaped(record({f"p{n}": {"const": n} for n in range(1200)})), *TOO_WIDE
    ),
    "a schema of numbers": Case(lambda: shaped(DIGITS, n=CHOICES), 200),
    "a schema with many choices": Case(
        lambda: shaped(record({"c": {"enum": [str(n) for n in range(9000)]}}), n=CHOICES), 200
    ),
    "a schema with a long choice": Case(
        lambda: shaped(record({"c": {"enum": ["x" * 60_000, "y"]}})), 200
    ),
    "a schema with choices in a list": Case(
        lambda: shaped({"type": "array", "items": {"enum": list("abcdefgh")}, "maxItems": 400}, n=CHOICES),
        200,
    ),
    "a schema with a long name": Case(
        lambda: shaped(record({"x" * 100_000: record({f"p{n}": {"type": "null"} for n in range(1900)})})),
        *TOO_WIDE,
    ),
    "references": Case(lambda: shaped(doubling(lambda ref: record({"a": ref, "b": ref}))), *TOO_WIDE),
    "references to optional properties": Case(
        lambda: shaped(doubling(lambda ref: {"type": "object", "properties": {"a": ref, "b": ref}})), 200
    ),
    "alternatives in alternatives": Case(
        lambda: shaped(doubling(lambda ref: {"anyOf": [record({"a": ref}), record({"b": ref})]})),
        200,
    ),
    "many alternatives": Case(
        lambda: shaped({"anyOf": [record({f"p{n}": {"const": n}}) for n in range(1000)]}), 200
    ),
    "a value of 9,000 texts": Case(lambda: shaped({"enum": [f"text {n}" for n in range(9000)]}), 200),
    "a pattern with nested repetition": Case(lambda: shaped(matching("^(a+)+(b|c)*$")), 200),
    "a pattern with large counts": Case(
        lambda: shaped(matching("^(([a-z]{1,90}){1,90}){1,90}$")), 400, "unsupported_schema"
    ),
    "a pattern of all letters": Case(lambda: shaped(matching(r"^[\p{L}\d ]{10,300}$")), 200),
    "an expression": Case(lambda: user("?", guided_regex="(ab|a[0-9]{3})+x" * 20, max_tokens=TOKENS), 200),
    "a schema in a text": Case(
        lambda: user("?", guided_json=json.dumps(DIGITS), max_tokens=TOKENS, n=CHOICES), 200
    ),
    "probabilities": Case(lambda: user("?", max_tokens=TOKENS, n=CHOICES, logprobs=True), 200),
    "probabilities in a stream": Case(
        lambda: user("?", max_tokens=TOKENS, n=CHOICES, logprobs=True, stream=True), 200
    ),
    "every step in a stream": Case(
        lambda: user("?", max_tokens=TOKENS, n=CHOICES, stream=True, stream_mode="denoise"), 200
    ),
    "a schema in a stream": Case(lambda: shaped(DIGITS, n=CHOICES, stream=True), 200),
    "a key": Case(lambda: user("?"), 200, headers={"authorization": "Bearer " + " " * 60_000}),
}  # fmt: skip


def compute(seconds: float) -> None:
    since = time.thread_time()
    while time.thread_time() - since < seconds:
        pass


def seen(begin: Callable[[], Awaitable[object]], attempts: int = 3) -> float:
    """The longest stall of some attempts: processor time is coarse on some virtual machines."""
    return max(asyncio.run(longest_stall(begin, attempts=1)) for _ in range(attempts))


def test_computing_in_the_loop_is_a_stall() -> None:
    async def block() -> None:
        compute(2 * LIMIT)

    assert seen(block) > LIMIT


def test_a_thread_that_holds_the_gil_is_a_stall() -> None:
    assert seen(lambda: asyncio.to_thread(pow, 7, 800_000)) > LIMIT


def test_a_thread_that_shares_the_gil_is_no_stall() -> None:
    async def aside() -> None:
        await asyncio.to_thread(compute, 6 * LIMIT)

    assert asyncio.run(longest_stall(aside, enough=LIMIT)) <= LIMIT


@pytest.fixture(scope="module")
def heap() -> Iterator[None]:
    with frozen_heap():
        yield


@pytest.mark.usefixtures("heap")
@pytest.mark.parametrize("name", CASES)
def test_no_request_blocks_the_event_loop(large: ServeSettings, name: str) -> None:
    case = CASES[name]
    given = case.body()
    body = given if isinstance(given, bytes) else json.dumps(given, ensure_ascii=False).encode()
    assert len(body) <= BODY

    async def asked() -> tuple[float, Answer]:
        app: FastAPI = app_of(large, Answers())
        await ask(app, CHAT, parts(json.dumps(user("?")).encode()))
        messages, answers = parts(body), list[Answer]()

        async def once() -> None:
            headers = {"content-type": "application/json", **case.headers}
            answers.append(await ask(app, case.path, messages, headers=headers))

        return await longest_stall(once, enough=LIMIT), answers[-1]

    stall, answer = asyncio.run(asked())
    said = json.loads(answer.body) if answer.body[:1] == b"{" else {}
    assert (answer.status, said.get("error", {}).get("code")) == (case.status, case.code), answer.body[:SHOWN]
    assert stall <= LIMIT
