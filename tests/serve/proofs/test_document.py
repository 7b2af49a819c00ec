"""Schemathesis sends requests that the OpenAPI document allows or forbids; responses match the document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from openai.types import Completion
from openai.types.chat import ChatCompletion
from openai.types.responses import Response
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from tests.serve.apis import LocalEngines, serving, settings_of

pytestmark = [pytest.mark.proof, pytest.mark.slow]
SHORT, LONG = 12, 400
"""Requests of each operation, in each way of ``_ways``."""
QUESTIONS: dict[str, tuple[str, Any]] = {
    "/v1/chat/completions": ("messages", [{"role": "user", "content": "Count."}]),
    "/v1/completions": ("prompt", "One, two"),
    "/v1/responses": ("input", "Count."),
}
"""The field with the question, and a question, by path."""
LIMITS = {
    "n": 4,
    "max_output_tokens": 32,
    "max_tokens": 32,
    "max_completion_tokens": 32,
    "block_length": 8,
    "refresh_interval": 64,
}
OPERATIONS = {
    *("POST /v1/chat/completions", "POST /v1/completions", "GET /v1/models", "GET /v1/models/{model}"),
    *("POST /v1/responses", "POST /tokenize", "POST /detokenize"),
    *("GET /health", "GET /ready", "GET /metrics", "GET /version"),
}
REFUSED = {"negative_data_rejection": {"expected-statuses": [400, 404, 413, 415]}}
"""A request that violates the document may be refused for its size as well."""
WHOLE_STREAMS = {"max-stream-events": 1000, "request-timeout": 60.0}
CONFIG = schemathesis.Config.from_dict({"checks": REFUSED, **WHOLE_STREAMS})
FORMS: dict[str, Any] = {
    "chat.completion": ChatCompletion,
    "text_completion": Completion,
    "response": Response,
}


@pytest.fixture(scope="module")
def address(model_folder: Path) -> Iterator[str]:
    """An API whose answers are short."""
    made = settings_of(model_folder, limits__max_tokens=32, limits__default_max_tokens=16)
    engines = LocalEngines(made)
    with serving(made, engines) as at:
        yield at
    engines.worker.stop()


def test_answers_are_as_the_document_says(address: str, full: bool) -> None:
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json", config=CONFIG)
    results: list[Any] = list(schema.get_all_operations())
    operations = {each.label: each for each in (result.ok() for result in results)}
    assert set(operations) == OPERATIONS
    for name, operation in operations.items():
        for way, cases in _ways(operation).items():
            statuses = _ask(cases, LONG if full else SHORT, schema.raw_schema)
            summary = ", ".join(f"{count} times {status}" for status, count in sorted(statuses.items()))
            print(f"document: {name}, {way}: {summary}")


def _ways(operation: Any) -> dict[str, SearchStrategy[Any]]:
    """Requests that fit the document, requests also within the server's limits, and invalid requests."""
    fitting = operation.as_strategy(generation_mode=GenerationMode.POSITIVE).map(_patient)
    if operation.method != "post":
        return {"fitting": fitting}
    forbidden = operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)
    if operation.path not in QUESTIONS:
        return {"fitting": fitting, "forbidden": forbidden}
    answerable = st.builds(_answerable, fitting, st.sets(st.integers(0, 30), max_size=4))
    return {"fitting": fitting, "answerable": answerable, "forbidden": forbidden}


def _patient(case: Any) -> Any:
    """The case with a deadline that can be met, so that 504 is an error."""
    if isinstance(case.body, dict) and isinstance(case.body.get("deadline_ms"), int | float):
        case.body["deadline_ms"] = max(case.body["deadline_ms"], 60_000)
    return case


def _answerable(case: Any, kept: set[int]) -> Any:
    """The case with an ordinary question and a few of its settings, within this server's limits."""
    field, question = QUESTIONS[case.path]
    names = [name for name in sorted(case.body) if name not in ("model", field)]
    body = {name: case.body[name] for number, name in enumerate(names) if number in kept}
    for name, limit in LIMITS.items():
        if isinstance(body.get(name), int):
            body[name] = 1 + body[name] % limit
    case.body = {"model": case.body["model"], field: question, **body}
    return case


def _ask(cases: SearchStrategy[Any], count: int, document: dict[str, Any]) -> Counter[int]:
    """Number of responses by status."""
    statuses: Counter[int] = Counter()

    @settings(
        max_examples=count,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=[*HealthCheck],  # type: ignore[arg-type] - members of their enumeration
    )
    @given(case=cases)
    def each(case: Any) -> None:
        # limits of the settings are not in the document, so what fits it may still be refused
        fits = [negative_data_rejection] if _fits(case, document) else []
        response = case.call_and_validate(excluded_checks=[positive_data_acceptance, *fits])
        statuses[response.status_code] += 1
        if response.status_code == 200 and case.method == "POST":
            _check_answer(response, case.path)

    each()
    return statuses


def _fits(case: Any, document: dict[str, Any]) -> bool:
    """Whether a body fits the document: Schemathesis takes other names of a kind of part for a violation."""
    if not isinstance(case.body, dict):
        return False
    path = case.path.replace("~", "~0").replace("/", "~1")
    body = f"#/paths/{path}/post/requestBody/content/application~1json/schema"
    return jsonschema.Draft202012Validator({**document, "$ref": body}).is_valid(case.body)


def _check_answer(response: Any, path: str) -> None:
    """Check that OpenAI's client can parse the response."""
    if not path.startswith("/v1/"):
        return
    if response.headers["content-type"][0].startswith("application/json"):
        answer = response.json()
        FORMS[answer["object"]].model_validate(answer)
    else:
        last = "event: response." if path == "/v1/responses" else "data: [DONE]"
        assert response.text.rstrip("\n").split("\n\n")[-1].startswith(last)
