"""Hostile schemas are accepted or refused with one line, in bounded memory; accepted ones can be answered."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lladav.inputs.chat import ChatTokenizer
from lladav.structured.compiling import StructureKind, StructureSpec, compile_structure
from tests.lladav.structured import hostile
from tests.lladav.structured.untrained import UntrainedModel
from tests.lladav.structured.validators import by_jsonschema_rs, judge_text

MAX_GROWTH = 400 * 2**20
"""Bytes by which all of them together may raise the peak of the process."""
SCHEMAS = hostile.hostile_schemas()
CODES = {"unsupported_schema", "impossible_schema", "schema_too_long", "invalid_schema"}
ANSWERED_TOKENS = 128


@pytest.fixture(scope="module")
def outcomes(root: Path) -> dict[str, dict[str, Any]]:
    """What became of each schema, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(root), str(root / "platform")))}
    command = [sys.executable, "-m", hostile.__name__]
    done = subprocess.run(
        command, env=environment, cwd=root, capture_output=True, text=True, timeout=110, check=False
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == len(SCHEMAS), f"after {lines[-1:]}: {done.stderr[-2000:]}"
    return {line["name"]: line for line in lines}


def test_no_schema_breaks_the_compiler(outcomes: dict[str, dict[str, Any]]) -> None:
    assert {name: each["error"] for name, each in outcomes.items() if each["error"]} == {}


def test_a_refusal_is_one_line_with_a_code(outcomes: dict[str, dict[str, Any]]) -> None:
    refusals = [each["refusal"] for each in outcomes.values() if each["refusal"]]
    assert refusals
    assert [line for line in refusals if line.partition(":")[0] not in CODES or len(line) > 500] == []
    assert [line for line in refusals if len(line.splitlines()) > 1] == []


def test_memory_is_bounded(outcomes: dict[str, dict[str, Any]]) -> None:
    peaks = [each["peak_bytes"] for each in outcomes.values()]
    steps = {name: each["peak_bytes"] >> 20 for name, each in outcomes.items()}
    assert max(peaks) - peaks[0] < MAX_GROWTH, steps


def test_accepted_schemas_are_answered(outcomes: dict[str, dict[str, Any]]) -> None:
    tokenizer = ChatTokenizer.load(hostile.TOKENIZER)
    accepted = [name for name, each in outcomes.items() if not (each["refusal"] or each["error"])]
    structures = {}
    for name in accepted:
        spec = StructureSpec(StructureKind.json_schema, SCHEMAS[name])
        tokens = max(outcomes[name]["min_tokens"], ANSWERED_TOKENS)
        structures[name] = compile_structure(spec, tokenizer, tokens)
    assert structures
    answers = UntrainedModel(tokenizer).answers(list(structures.values()), temperature=2.0)
    for name, answer in zip(structures, answers, strict=True):
        assert answer.error is None, name
        verdict = judge_text(json.loads(SCHEMAS[name]), answer.text, [by_jsonschema_rs])
        assert verdict.objections == (), name
