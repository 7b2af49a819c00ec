"""A stream gives what the whole answer gives, whatever else runs, and never gives a stop.

Requests are random: stops, answers, seeds, rules, caches, schemas, suffixes, images. Each is sent whole,
streamed, and streamed with every step shown, beside all others and alone.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import httpx2 as httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import validate

from tests.serve.apis import NAME
from tests.serve.images import encoded, sample_image, uri

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
WHOLE, STREAM, DENOISE = {}, {"stream": True}, {"stream": True, "stream_mode": "denoise"}
IMAGE = {"type": "image_url", "image_url": {"url": uri(encoded(sample_image()))}}
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 9},
        "age": {"type": "integer", "minimum": 10, "maximum": 90},
        "kind": {"type": ["string", "null"]},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 2},
        "boxes": {
            "type": "array",
            "items": {"type": "object", "properties": {"é": {"type": "boolean"}}, "required": ["é"]},
            "maxItems": 2,
        },
    },
    "required": ["name", "boxes"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}


@dataclass(frozen=True)
class Choice:
    """An answer as a client assembles it."""

    text: str
    finish: str
    logprobs: tuple[tuple[str, bytes], ...] = ()
    """Text and bytes of each token."""


@dataclass(frozen=True)
class Request:
    path: str
    body: dict[str, Any]

    def without(self, fields: Set[str]) -> Request:
        kept = {name: value for name, value in self.body.items() if name not in fields}
        return Request(self.path, kept)

    @property
    def stops(self) -> list[str]:
        return self.body.get("stop", [])


RULES = st.sampled_from(
    [{}, {"steps": 12}, {"tokens_per_step": 3}, {"threshold": 0.3}, {"factor": 1.0}, {"entropy": 0.5}]
)
SAMPLING = st.sampled_from([{}, {"temperature": 1.0}, {"temperature": 5.0, "top_p": 0.9, "seed": 7}])
CACHES = st.fixed_dictionaries(
    {"cache": st.sampled_from(["none", "prefix", "dual"]), "refresh_interval": st.sampled_from([1, 3, 64])}
)
DENOISING = frozenset(
    ("steps", "tokens_per_step", "threshold", "factor", "entropy", "cache", "refresh_interval")
) | {"block_length", "guidance", "allow_eos", "suffix", "response_format"}


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """A request without stops and with a seed, so that its answer is reproducible."""
    params = {**draw(RULES), **draw(SAMPLING), **draw(CACHES)}
    params |= {"model": NAME, "seed": draw(st.integers(0, 99)), "n": draw(st.sampled_from([1, 1, 3]))}
    params |= {"max_tokens": draw(st.sampled_from([4, 12, 16]))}
    params |= {"block_length": draw(st.sampled_from([4, 8]))}
    params |= draw(st.sampled_from([{}, {"guidance": 0.5}, {"ignore_eos": True}, {"allow_eos": True}]))
    if params["max_tokens"] < 12:
        params.pop("steps", None)
    question = draw(st.sampled_from(["What?", "é €", "1 + 2"]))
    if draw(st.integers(0, 3)) == 0:
        return Request(TEXT, {**params, "prompt": question, "suffix": draw(st.sampled_from([None, " end"]))})
    content = [*draw(st.sampled_from([[], [IMAGE]])), {"type": "text", "text": question}]
    chat = {**params, "messages": [{"role": "user", "content": content}], "logprobs": True}
    if draw(st.integers(0, 3)) == 0:
        chat = {k: v for k, v in chat.items() if k != "steps"}
        chat |= {"response_format": FORMAT, "max_tokens": 128}
    return Request(CHAT, chat)


@st.composite
def stops(draw: st.DrawFn, answers: Sequence[Choice]) -> list[str]:
    """Parts of the answers without stops; they begin and end anywhere inside tokens."""
    found = []
    for _ in range(draw(st.integers(0, 3))):
        text = draw(st.sampled_from(answers)).text or "a"
        begin = draw(st.integers(0, len(text) - 1))
        found.append(text[begin : begin + draw(st.integers(1, 4))])
    return found


@dataclass(frozen=True)
class Server:
    """Address of an API, and the fields that its model does not have."""

    address: str
    refused: frozenset[str]


@pytest.fixture(scope="module", params=["api", "next_token_api"])
def server(request: pytest.FixtureRequest) -> Server:
    refused = DENOISING if request.param == "next_token_api" else frozenset[str]()
    return Server(request.getfixturevalue(request.param), refused)


@pytest.fixture(scope="module")
def ask(server: Server) -> Any:
    """Sends requests together, each in its own mode."""

    async def one(client: httpx.AsyncClient, request: Request, mode: dict[str, Any]) -> list[Choice]:
        response = await client.post(request.path, json={**request.body, **mode})
        assert response.status_code == 200, response.text
        if not mode:
            return [_of_whole(each) for each in response.json()["choices"]]
        return _of_chunks(response.text, request, shown=mode is DENOISE)

    def asked(*wanted: tuple[Request, dict[str, Any]]) -> list[list[Choice]]:
        async def all_of_them() -> list[list[Choice]]:
            async with httpx.AsyncClient(base_url=server.address, timeout=60) as client:
                return await asyncio.gather(*(one(client, *each) for each in wanted))

        return asyncio.run(all_of_them())

    return asked


def _of_whole(choice: dict[str, Any]) -> Choice:
    text = choice["message"]["content"] if "message" in choice else choice["text"]
    return Choice(text, choice["finish_reason"], _tokens(choice["logprobs"]))


def _tokens(logprobs: dict[str, Any] | None) -> tuple[tuple[str, bytes], ...]:
    given = logprobs["content"] if logprobs else []
    return tuple((each["token"], bytes(each["bytes"])) for each in given)


def _of_chunks(text: str, request: Request, shown: bool) -> list[Choice]:
    """The choices that chunks add up to; checks that the bytes of a chunk's tokens are those of its text."""
    *lines, done = [line.removeprefix("data: ") for line in text.split("\n") if line]
    assert done == "[DONE]"
    chunks = [json.loads(line) for line in lines]
    found: dict[int, Choice] = {}
    for part in (part for chunk in chunks for part in chunk["choices"]):
        before = found.get(part["index"], Choice("", ""))
        new = part["delta"].get("content", "") if "delta" in part else part["text"]
        tokens = _tokens(part["logprobs"])
        if tokens:
            assert b"".join(each for _, each in tokens).decode(errors="replace") == new
        joined = Choice(before.text + new, part["finish_reason"] or "", before.logprobs + tokens)
        found[part["index"]] = joined
    if shown:
        _check_canvas(chunks, request, found)
    return [found[number] for number in range(len(found))]


def _check_canvas(chunks: Sequence[dict[str, Any]], request: Request, found: Mapping[int, Choice]) -> None:
    """No stop can be put together from what the steps of an answer showed; they showed all of a structure."""
    canvases: dict[int, dict[int, str]] = {}
    for shown in (chunk["denoise"] for chunk in chunks if "denoise" in chunk):
        canvas = canvases.setdefault(shown["index"], {})
        canvas |= {reveal["place"]: reveal["text"] for reveal in shown["reveal"]}
    if "response_format" in request.body:
        for number, canvas in canvases.items():
            joined = "".join(text for _, text in sorted(canvas.items()))
            assert "\ufffd" in joined or joined == found[number].text
    for canvas in canvases.values():
        texts = ["".join(canvas.get(place, "\0") for place in range(max(canvas, default=0) + 1))]
        assert not any(stop in text for stop in request.stops for text in texts if "\ufffd" not in text)


@given(st.data())
@settings(
    max_examples=settings().max_examples // 5,  # each sends up to 15 requests
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
def test_a_stream_gives_what_the_whole_answer_gives(ask: Any, server: Server, data: st.DataObject) -> None:
    drawn = data.draw(st.lists(requests(), min_size=2, max_size=3))
    free = [request.without(server.refused) for request in drawn]
    wanted = []
    for request, answers in zip(free, ask(*((each, WHOLE) for each in free)), strict=True):
        chosen = [] if "response_format" in request.body else data.draw(stops(answers))
        wanted.append(Request(request.path, {**request.body, "stop": chosen} if chosen else request.body))
    together = ask(*((request, mode) for request in wanted for mode in (WHOLE, STREAM, DENOISE)))
    for number, request in enumerate(wanted):
        whole, streamed, denoised = together[3 * number : 3 * number + 3]
        (alone,) = ask((request, STREAM))
        assert whole == streamed == denoised == alone
        for choice in whole:
            _check(choice, request)


def _check(choice: Choice, request: Request) -> None:
    assert not any(stop in choice.text for stop in request.stops)
    if request.body.get("logprobs"):
        written = b"".join(each for _, each in choice.logprobs)
        assert written.decode(errors="replace") == choice.text
        assert "\ufffd" in choice.text or written == choice.text.encode()
        assert all(each.decode(errors="replace") == token for token, each in choice.logprobs)
    if "response_format" in request.body:
        validate(json.loads(choice.text), SCHEMA)


def test_a_stop_that_begins_inside_a_token_is_not_streamed(ask: Any) -> None:
    """The stops are the last characters of tokens with several characters."""
    question = [{"role": "user", "content": "x"}]
    body = {"model": NAME, "messages": question, "max_tokens": 32, "logprobs": True}
    body |= {"temperature": 5.0, "seed": 1, "ignore_eos": True}
    ((free,),) = ask((Request(CHAT, body), WHOLE))
    long = [token for token, _ in free.logprobs if len(token) > 1 and "\ufffd" not in token]
    assert long, "the model writes no token of several characters; choose another seed"
    ended = []
    for stop in {token[-1] for token in long}:
        request = Request(CHAT, {**body, "stop": [stop]})
        (whole,), (streamed,), (denoised,) = ask((request, WHOLE), (request, STREAM), (request, DENOISE))
        assert whole == streamed == denoised
        _check(whole, request)
        ended.append(whole.finish)
    assert "stop" in ended
