"""The benchmarks of structured output: their schemas, how they read files, and what they call wrong."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tests.bench.bench_schema_suite import SuiteCase, called_impossible, normal_text, problems, read_suite
from tests.bench.bench_schemas import choose, reason, row
from tests.bench.schema_cases import (
    OWN_SCHEMAS,
    Compilation,
    JudgedAnswer,
    SchemaCase,
    judged,
    load_vocabulary,
    read_cases,
)
from tests.bench.schema_findings import Finding
from tests.lladav.structured.untrained import UntrainedAnswer
from tests.lladav.structured.validators import judge, judge_text

KEYWORDS = """
$anchor $comment $defs $dynamicAnchor $dynamicRef $id $ref $schema additionalItems additionalProperties
allOf anyOf const contains contentEncoding contentMediaType default definitions dependencies
dependentRequired dependentSchemas deprecated description else enum examples exclusiveMaximum
exclusiveMinimum format id if items maxContains maxItems maxLength maxProperties maximum minContains
minItems minLength minProperties minimum multipleOf not oneOf pattern patternProperties prefixItems
properties propertyNames readOnly required then title type unevaluatedItems unevaluatedProperties
uniqueItems writeOnly
""".split()
FORMATS = """
date date-time duration email hostname idn-email idn-hostname ipv4 ipv6 iri iri-reference json-pointer regex
relative-json-pointer time uri uri-reference uri-template uuid
""".split()
GROUP = {
    "description": "integers",
    "schema": {"type": "integer"},
    "tests": [
        {"description": "an integer", "data": 1.0, "valid": True},
        {"description": "a text", "data": "1", "valid": False},
    ],
}


def keys_and_values(schema: Any) -> list[tuple[str, Any]]:
    """Every key of a schema, with its value, on all levels."""
    if isinstance(schema, list):
        return [pair for each in schema for pair in keys_and_values(each)]
    if not isinstance(schema, dict):
        return []
    return [*schema.items(), *(pair for each in schema.values() for pair in keys_and_values(each))]


def test_the_own_schemas_cover_every_keyword_and_format() -> None:
    cases = read_cases(OWN_SCHEMAS)
    assert len(cases) == len({case.name for case in cases}) == 60
    pairs = [pair for case in cases for pair in keys_and_values(case.schema)]
    assert set(KEYWORDS) - {key for key, _ in pairs} == set()
    assert set(FORMATS) - {value for key, value in pairs if key == "format"} == set()


def test_a_compressed_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "schemas.jsonl.gz"
    file.write_bytes(gzip.compress(b'{"set": "a", "name": "b", "schema": true}\n'))
    assert read_cases(file) == [SchemaCase("a", "b", True)]


def test_special_tokens_that_a_vocabulary_lacks_are_added(golden: Any, tmp_path: Path) -> None:
    content = json.loads((golden.folder / "tokenizer" / "tokenizer.json").read_text(encoding="utf-8"))
    content["added_tokens"] = []
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    tokenizer = load_vocabulary(tmp_path / "tokenizer.json")
    assert len({*vars(tokenizer.ids).values()}) == len(vars(tokenizer.ids))
    assert tokenizer.token_bytes(tokenizer.ids.eot) == b""
    assert tokenizer.decode(tokenizer.encode("a b")) == "a b"


def finding(compilation: Compilation, *answers: JudgedAnswer, schema: Any = True) -> Finding[SuiteCase]:
    case = SuiteCase("type", "integers", schema, "draft7", ("1",), ('"1"',))
    return Finding(case, compilation, list(answers))


def test_only_accepted_schemas_are_chosen_and_counted() -> None:
    refused = Compilation(0.1, 0, "#/a has 'b' 12 times", "unsupported_schema")
    findings = [finding(Compilation(0.001, 5)) for _ in range(3)] + [finding(refused)]
    assert choose(findings, 2, seed=0) == choose(findings, 2, seed=0)
    assert all(each.compilation.accepted for each in choose(findings, 4, seed=0))
    assert row("all", findings)[1:6] == ["4", "3", "0.750", "0", "0"]
    assert reason(findings[3]) == "unsupported_schema: #/a has ... N times"


def test_an_answer_is_valid_if_a_judge_accepts_it_and_none_objects() -> None:
    schema = {"type": "string", "format": "date"}
    answers = [UntrainedAnswer(text, 1) for text in ('"2024-02-29"', '"2023-02-29"', "2")]
    assert [judged(schema, 0.0, each).valid for each in answers] == [True, False, False]
    assert not judged(schema, 0.0, UntrainedAnswer(error="failed")).valid


@pytest.mark.parametrize("text", ["NaN", '{"a": 1, "a": 2}', "1 2", ""])
def test_text_that_is_not_strict_json_is_an_objection(text: str) -> None:
    assert judge_text(True, text).objections


def test_judges_that_cannot_read_a_schema_abstain() -> None:
    assert judge({"$ref": "https://example.org/unknown"}, 1).judges == 0
    assert judge({"type": "string", "pattern": "^\\p{L}$"}, "é").judges == 1


def test_the_suite_is_read_with_its_draft(tmp_path: Path) -> None:
    file = tmp_path / "draft7" / "optional" / "type.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps([GROUP]), encoding="utf-8")
    (case,) = read_suite(tmp_path, "draft7")
    assert case.schema == {"$schema": "http://json-schema.org/draft-07/schema#", "type": "integer"}
    assert (case.set, case.valid, case.invalid) == ("optional/type", ("1",), ('"1"',))
    assert read_suite(tmp_path, "draft2020-12") == []


def test_equal_values_have_the_same_text() -> None:
    assert normal_text({"b": 1.0, "a": [2]}) == normal_text({"a": [2.0], "b": 1})
    assert normal_text(True) != normal_text(1)


def test_the_suite_overrules_the_validators() -> None:
    accepted = Compilation(0.0, 1)
    objections = 2, ("jsonschema: no",)
    answers = [JudgedAnswer(0.0, UntrainedAnswer(text, 1), *objections) for text in ("1.0", '"1"', "3")]
    assert [bool([*problems(finding(accepted, each))]) for each in answers] == [False, True, True]
    assert [*problems(finding(accepted, JudgedAnswer(0.0, UntrainedAnswer("3", 1), 2)))] == []
    impossible = finding(Compilation(0.0, 0, "has no value", "impossible_schema"))
    assert called_impossible(impossible)
    assert len([*problems(impossible)]) == 1
