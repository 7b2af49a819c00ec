"""Rows get the answers of the HTTP API, rows of several blocks are decoded together, bad rows are errors."""

from __future__ import annotations

import asyncio
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pyarrow as pa
import pytest
from jsonschema import validate
from openai.types import Completion
from openai.types.chat import ChatCompletion
from openai.types.responses import Response

from lladav.storage import location
from serve.offline.decoder import RowDecoder
from serve.offline.results import OpenAIForm, TableForm
from serve.offline.row_requests import REQUEST, RequestBuilder
from tests.serve.apis import NAME
from tests.serve.images import encoded, sample_image
from tests.serve.loops import forever
from tests.serve.offline.settings import batch_settings

SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
ROWS: list[dict[str, Any]] = [
    {"prompt": "Count.", "max_tokens": 8},
    {"prompt": "Count.", "max_tokens": 12, "temperature": 3.0, "seed": 5},
    {"prompt": "What?", "image": encoded(sample_image()), "max_tokens": 8, "refresh_interval": 4},
    {"prompt": "Which?", "response_format": FORMAT, "max_tokens": 64},
    {
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Count."}],
        "stop": ["a"],
    },
    {"prompt": "Count.", "temprature": 1},
    {"prompt": "Count.", "temperature": -1},
    {"prompt": "Count.", "model": "another"},
    {"prompt": "Which?", "response_format": {**FORMAT, "json_schema": {"name": "x", "schema": False}}},
]
GOOD = 5


@pytest.fixture(scope="module")
def decoder(model_folder: Path) -> Iterator[Any]:
    """Blocks of rows to results in OpenAI's form, in the event loop of one engine actor."""
    settings = batch_settings(model=str(model_folder), engine__max_rows=2)
    with forever() as run:
        actor = RowDecoder(settings, OpenAIForm())
        yield lambda rows: run(actor(block(rows)))


def block(rows: list[dict[str, Any]], **given: Any) -> pa.Table:
    builder = RequestBuilder(batch_settings(**given), location("."))
    requests = [pickle.dumps(each) for each in builder.requests(list(enumerate(rows)))]
    return pa.table({REQUEST: pa.array(requests, pa.large_binary())})


def lines(table: pa.Table) -> list[dict[str, Any]]:
    return [json.loads(line) for line in table["line"].to_pylist()]


def test_a_row_gets_the_response_of_the_same_request_over_http(decoder: Any, api: str) -> None:
    found = [line["response"] for line in lines(decoder(ROWS).result())]
    builder = RequestBuilder(batch_settings(), location("."))
    bodies = [builder.request(0, row).body for row in ROWS]
    for body, response in zip(bodies, found, strict=True):
        over_http = httpx.post(f"{api}/v1/chat/completions", json=body, timeout=60)
        assert response["status_code"] == over_http.status_code
        for key in ("choices", "usage", "warnings", "error", "model", "object"):
            assert response["body"].get(key) == over_http.json().get(key), body


def test_lines_validate_as_openai_writes_them(decoder: Any) -> None:
    bodies = [
        {"messages": [{"role": "user", "content": "Count."}], "n": 2, "logprobs": True},
        {"prompt": "Count."},
    ]
    urls = ["/v1/chat/completions", "/v1/completions"]
    given = [
        {"custom_id": url, "method": "POST", "url": url, "body": {"model": NAME, "max_tokens": 8, **body}}
        for url, body in zip(urls, bodies, strict=True)
    ]
    response = {**given[0], "url": "/v1/responses", "body": {"model": NAME, "input": "Count."}}
    chat, text, other = lines(decoder([*given, response]).result())
    answer = ChatCompletion.model_validate(chat["response"]["body"], strict=True, extra="allow")
    assert len(answer.choices) == 2
    assert answer.choices[0].logprobs is not None
    Completion.model_validate(text["response"]["body"])
    Response.model_validate(other["response"]["body"])
    for line, url in ((chat, urls[0]), (text, urls[1])):
        assert line.keys() == {"id", "custom_id", "response", "error"}
        assert line["response"].keys() == {"status_code", "request_id", "body"}
        assert (line["custom_id"], line["response"]["status_code"], line["error"]) == (url, 200, None)


def test_a_row_with_a_schema_fits_it(decoder: Any) -> None:
    [line] = lines(decoder([ROWS[3]]).result())
    validate(json.loads(line["response"]["body"]["choices"][0]["message"]["content"]), SCHEMA)


def test_rows_select_adapters_as_their_model(model_folder: Path, adapter_folders: dict[str, str]) -> None:
    def texts(rows: pa.Table, **given: Any) -> list[str]:
        settings = batch_settings(engine__dtype="float32", **given)
        answers = lines(asyncio.run(RowDecoder(settings, OpenAIForm())(rows)))
        return [line["response"]["body"]["choices"][0]["message"]["content"] for line in answers]

    row = {"prompt": "Count.", "max_tokens": 12, "ignore_eos": True}
    rows = block([row, {**row, "model": "all-parts"}, {**row, "model": NAME}], params__model="words")
    found = texts(rows, model=str(model_folder), adapters=adapter_folders)
    folders = [*adapter_folders.values(), str(model_folder)]
    assert found == [text for folder in folders for text in texts(block([row]), model=folder)]
    assert len({*found}) == 3


def test_rows_of_a_block_are_decoded_while_another_waits_for_its_last_row(decoder: Any) -> None:
    long = decoder([{"prompt": "Count.", "max_tokens": 512, "ignore_eos": True}])
    short = [decoder([{"prompt": "Count.", "max_tokens": 4}] * 3) for _ in range(3)]
    assert [line["response"]["status_code"] for each in short for line in lines(each.result())] == [200] * 9
    assert not long.done()
    long.result()


def test_bad_rows_are_errors_and_spoil_no_other_row(model_folder: Path) -> None:
    async def run() -> list[dict[str, Any]]:
        form = TableForm(pa.schema([]))
        table = await RowDecoder(batch_settings(model=str(model_folder)), form)(
            block([*ROWS, {"prompt": "x", "n": 2}])
        )
        return form.output(table).to_pylist()

    rows = asyncio.run(run())
    assert [row["error"] is None for row in rows] == [number < GOOD for number in range(len(ROWS) + 1)]
    assert all((row["answer"] is None) != (row["error"] is None) for row in rows)
    assert rows[5]["error"] == "temprature: unknown field; did you mean temperature?"
    assert rows[-1]["error"] == "n: a table has no place for it; leave it out, or set format=openai"
    assert [row["row"] for row in rows] == list(range(len(ROWS) + 1))
