"""Calls of functions: one of the functions, with arguments that fit its schema."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from jsonschema import validate

from lladav.inputs.chat import ChatTokenizer
from lladav.inputs.tool_text import call_text
from lladav.structured.compiling import Structure, StructureKind, StructureSpec, compile_structure
from lladav.structured.errors import SchemaError
from lladav.structured.outline import Fixed
from lladav.structured.tool_calls import arguments_schema
from tests.conftest import Golden
from tests.lladav.structured.untrained import StructuredRequest, UntrainedModel

CALL = re.compile(r'<tool_call>\n\{"name": "([^"]+)", "arguments": (.*)\}\n</tool_call>')
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "unit": {"enum": ["C", "F"]}},
    "required": ["city"],
}
NODE = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}
SCHEMAS: dict[str, Any] = {
    "weather": WEATHER,
    "add": {"properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "required": ["a", "b"]},
    "now": None,
    "any": {},
    "tree": {"$ref": "#/$defs/node", "$defs": {"node": NODE}},
    **{f"tool_{n}": {"type": "object", "properties": {f"p{n}": {"type": "boolean"}}} for n in range(9)},
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(golden: Golden) -> ChatTokenizer:
    return ChatTokenizer.load(golden.folder / "tokenizer")


@pytest.fixture(scope="module")
def model(tokenizer: ChatTokenizer) -> UntrainedModel:
    return UntrainedModel(tokenizer)


def structure_of(
    tokenizer: ChatTokenizer, *names: str, parallel: bool = False, limit: int = 160
) -> Structure:
    functions = [
        {"index": index, "name": name, "parameters": SCHEMAS[name]} for index, name in enumerate(names)
    ]
    source = json.dumps({"functions": functions, "parallel": parallel})
    return compile_structure(StructureSpec(StructureKind.tool_calls, source), tokenizer, limit)


def calls_in(text: str) -> list[tuple[str, Any]]:
    """Names and arguments of the calls in an answer, which has nothing else."""
    calls = CALL.findall(text)
    assert "\n".join(call_text(*call) for call in calls) == text
    return [(name, json.loads(arguments)) for name, arguments in calls]


@pytest.mark.parametrize("names", [["weather"], ["weather", "add", "now", "any", "tree"], list(SCHEMAS)])
@pytest.mark.parametrize("parallel", [False, True])
def test_arguments_fit_the_schema_of_their_function(
    tokenizer: ChatTokenizer, model: UntrainedModel, names: list[str], parallel: bool
) -> None:
    structure = structure_of(tokenizer, *names, parallel=parallel)
    requests = {f"{seed}": StructuredRequest(structure, 2.0 * (seed > 0), seed) for seed in range(6)}
    answers = model.answer(requests).values()
    assert all(answer.error is None and answer.tokens <= 160 for answer in answers)
    found = [calls_in(answer.text) for answer in answers]
    assert all(len(calls) == 1 for calls in found) or parallel
    for name, arguments in (call for calls in found for call in calls):
        validate(arguments, arguments_schema(SCHEMAS[name]))
        assert isinstance(arguments, dict)


def test_the_model_chooses_the_function_and_the_number_of_calls(
    tokenizer: ChatTokenizer, model: UntrainedModel
) -> None:
    structure = structure_of(tokenizer, "weather", "add", "now", parallel=True)
    requests = {f"{seed}": StructuredRequest(structure, 5.0, seed) for seed in range(12)}
    found = [calls_in(answer.text) for answer in model.answer(requests).values()]
    assert {name for calls in found for name, _ in calls} == {"weather", "add", "now"}
    assert len({len(calls) for calls in found}) > 1


@pytest.mark.parametrize("names", [["weather"], ["now"], list(SCHEMAS)])
def test_calls_begin_with_the_same_fixed_token(tokenizer: ChatTokenizer, names: list[str]) -> None:
    first = structure_of(tokenizer, *names).outline.pieces[0]
    assert isinstance(first, Fixed)
    assert first.ids[0] == tokenizer.encode("<tool_call>")[0]


def test_an_answer_is_calls_or_a_value(tokenizer: ChatTokenizer, model: UntrainedModel) -> None:
    functions = [{"index": 0, "name": "weather", "parameters": WEATHER}]
    source = json.dumps({"functions": functions, "parallel": False, "answer": {"type": "boolean"}})
    structure = compile_structure(StructureSpec(StructureKind.tool_calls, source), tokenizer, 160)
    requests = {f"{seed}": StructuredRequest(structure, 9.0, seed) for seed in range(20)}
    texts = {answer.text for answer in model.answer(requests).values()}
    values = texts & {"true", "false"}
    assert values
    assert [name for text in texts - values for name, _ in calls_in(text)] == ["weather"] * len(
        texts - values
    )
    assert texts != values


def test_a_single_call_reserves_no_more_than_its_longest_form(tokenizer: ChatTokenizer) -> None:
    short = structure_of(tokenizer, "now", limit=4000)
    assert short.max_tokens == len(tokenizer.encode(call_text("now", "{}")))
    assert structure_of(tokenizer, "now", parallel=True, limit=400).max_tokens == 400


@pytest.mark.parametrize(
    ("parameters", "path", "code"),
    [
        ({"type": "string"}, "#/0/function/parameters/type", "invalid_schema"),
        ({"type": ["object", "null"]}, "#/0/function/parameters/type", "invalid_schema"),
        (
            {"properties": {"a": {"type": "string", "pattern": "("}}, "required": ["a"]},
            "#/0/function/parameters/properties/a",
            None,
        ),
        ({"properties": {"a": False}, "required": ["a"]}, "#/0/function/parameters", "impossible_schema"),
    ],
)  # fmt: skip
def test_errors_name_the_function_and_the_place(
    tokenizer: ChatTokenizer, parameters: Any, path: str, code: str | None
) -> None:
    source = {"functions": [{"index": 0, "name": "f", "parameters": parameters}], "parallel": True}
    with pytest.raises(SchemaError) as error:
        compile_structure(StructureSpec(StructureKind.tool_calls, json.dumps(source)), tokenizer, 99)
    assert error.value.path.startswith(path)
    assert code in (None, error.value.code)


def test_calls_that_do_not_fit_are_refused(tokenizer: ChatTokenizer) -> None:
    with pytest.raises(SchemaError) as error:
        structure_of(tokenizer, "weather", limit=5)
    assert error.value.code == "schema_too_long"


@pytest.mark.parametrize(
    ("parameters", "closed"),
    [
        (WEATHER, True),
        ({"properties": {}}, True),
        ({}, False),
        ({"type": "object", "additionalProperties": {"type": "integer"}, "properties": {}}, False),
        ({"properties": {"a": {}}, "required": ["b"]}, False),
        ({"properties": {"a": {}}, "allOf": [{"required": ["b"]}]}, False),
    ],
)
def test_there_are_no_arguments_besides_the_listed_ones_unless_the_schema_says_so(
    parameters: Any, closed: bool
) -> None:
    schema = arguments_schema(parameters)
    assert (schema.get("additionalProperties") is False) is closed
    assert schema["type"] == "object"
