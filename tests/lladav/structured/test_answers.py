"""Whatever a model answers is valid: an untrained one on realistic and on generated schemas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from lladav.inputs.chat import ChatTokenizer
from lladav.structured.compiling import Structure, StructureKind, StructureSpec, compile_structure
from lladav.structured.errors import SchemaError
from tests.bench.schema_cases import OWN_SCHEMAS, read_cases
from tests.lladav.structured.generated import Example, examples
from tests.lladav.structured.untrained import UntrainedModel, json_spec
from tests.lladav.structured.validators import judge, judge_text

TOKENIZER = ChatTokenizer.load(Path(__file__).parents[2] / "golden" / "tokenizer")
CASES = read_cases(OWN_SCHEMAS)
MAX_TOKENS = 1024
ANSWERED_TOKENS = 160
GENERATED_TOKENS = 192


@pytest.fixture(scope="module")
def model() -> UntrainedModel:
    return UntrainedModel(TOKENIZER)


def compiled(schema: Any, max_tokens: int = MAX_TOKENS) -> Structure | SchemaError:
    """The structure of a schema, or why it is refused."""
    try:
        return compile_structure(json_spec(schema), TOKENIZER, max_tokens)
    except SchemaError as error:
        return error


def test_realistic_schemas_are_accepted() -> None:
    found = {case.name: compiled(case.schema) for case in CASES}
    assert {name: str(each) for name, each in found.items() if isinstance(each, SchemaError)} == {}


@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_answers_to_realistic_schemas_are_valid(model: UntrainedModel, temperature: float) -> None:
    structures = []
    for case in CASES:
        spec = json_spec(case.schema)
        needed = compile_structure(spec, TOKENIZER, MAX_TOKENS).min_tokens
        structures.append(compile_structure(spec, TOKENIZER, max(needed, ANSWERED_TOKENS)))
    answers = model.answers(structures, temperature)
    for case, structure, answer in zip(CASES, structures, answers, strict=True):
        assert answer.error is None, case.name
        assert answer.tokens <= structure.max_tokens, case.name
        assert judge_text(case.schema, answer.text).valid, (case.name, answer.text)


@given(examples())
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_answers_to_generated_schemas_are_valid(model: UntrainedModel, example: Example) -> None:
    """A refusal is never that no value is valid, if one is known."""
    structure = compiled(example.schema, GENERATED_TOKENS)
    if isinstance(structure, SchemaError):
        assert structure.code != "impossible_schema" or not judge(example.schema, example.value).valid
        return
    for temperature in (0.0, 2.0):
        (answer,) = model.answers([structure], temperature)
        assert answer.error is None
        assert judge_text(example.schema, answer.text).valid, answer.text


def test_most_generated_schemas_are_accepted() -> None:
    accepted: list[bool] = []

    @given(examples())
    @settings(suppress_health_check=[HealthCheck.too_slow], derandomize=True, max_examples=100)
    def compile_one(example: Example) -> None:
        if judge(example.schema, example.value).valid:
            accepted.append(isinstance(compiled(example.schema), Structure))

    compile_one()
    assert sum(accepted) > 0.9 * len(accepted) > 20


@pytest.mark.parametrize(
    ("kind", "source", "permitted"),
    [
        (StructureKind.choice, '["red", "green", "dark blue"]', {"red", "green", "dark blue"}),
        (StructureKind.regex, "(yes|no)", {"yes", "no"}),
    ],
)
def test_texts_and_expressions_are_kept(
    model: UntrainedModel, kind: StructureKind, source: str, permitted: set[str]
) -> None:
    structure = compile_structure(StructureSpec(kind, source), TOKENIZER, 32)
    answers = [model.answers([structure], 2.0, seed)[0].text for seed in range(5)]
    assert set(answers) <= permitted


def test_an_answer_that_must_be_an_object_is_one(model: UntrainedModel) -> None:
    structure = compile_structure(StructureSpec(StructureKind.json_object, ""), TOKENIZER, 64)
    for seed in range(5):
        (answer,) = model.answers([structure], 2.0, seed)
        assert isinstance(json.loads(answer.text), dict)
