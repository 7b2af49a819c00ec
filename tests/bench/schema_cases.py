"""Schemas to benchmark, and what one process finds out about some of them.

A schema is compiled, and an untrained model answers it. Only the compiler and the engine run here: nothing
falls back to free text.
"""

from __future__ import annotations

import gzip
import json
import signal
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer

from lladav.config.schema import TokenIds
from lladav.inputs.chat import SPECIAL_TOKENS, ChatTokenizer
from lladav.structured.compiling import Structure, compile_structure
from lladav.structured.errors import SchemaError
from tests.lladav.structured.untrained import UntrainedAnswer, UntrainedModel, json_spec
from tests.lladav.structured.validators import judge_text

TESTS = Path(__file__).resolve().parents[1]
TOY_VOCABULARY = TESTS / "golden" / "tokenizer" / "tokenizer.json"
OWN_SCHEMAS = Path(__file__).with_name("schemas.jsonl")
TOO_LONG = "schema_too_long"
PATIENCE = 60
"""Seconds after which a schema counts as failed."""


@dataclass(frozen=True)
class SchemaCase:
    """A schema of a set."""

    set: str
    name: str
    schema: Any


@dataclass(frozen=True)
class Limits:
    """The vocabulary, and how long answers may be."""

    vocabulary: Path = TOY_VOCABULARY
    max_tokens: int = 2048
    """Tokens up to which a schema is accepted."""
    usual_tokens: int = 256
    """Tokens of an answer, unless its schema needs more."""
    temperatures: tuple[float, ...] = (0.0, 2.0)
    """Temperatures of the answers to a schema; equal ones have different seeds."""

    def of_answer(self, min_tokens: int) -> int:
        """Tokens of an answer that needs at least ``min_tokens``."""
        return min(self.max_tokens, max(self.usual_tokens, min_tokens))


@dataclass(frozen=True)
class Compilation:
    """A schema that is accepted, or the reason why it is not."""

    seconds: float
    min_tokens: int = 0
    refusal: str | None = None
    code: str | None = None
    """Code of the refusal; None for an error that is not a refusal."""

    @property
    def accepted(self) -> bool:
        """Whether the schema is accepted and an answer fits."""
        return self.refusal is None


@dataclass(frozen=True)
class JudgedAnswer:
    """An answer of an untrained model, or the error of decoding."""

    temperature: float
    answer: UntrainedAnswer
    judges: int = 0
    objections: tuple[str, ...] = ()

    @property
    def valid(self) -> bool:
        """Whether a validator accepts the answer, and none objects."""
        return self.judges > 0 and not self.objections


@dataclass(frozen=True)
class Answered:
    """The answers to one schema."""

    peak_bytes: int
    """Peak of the memory that is allocated to compile it."""
    answers: list[JudgedAnswer]


def read_cases(file: Path) -> list[SchemaCase]:
    """The schemas of a file with a JSON object per line (``set``, ``name``, ``schema``), also gzipped."""
    reader = gzip.open if file.suffix == ".gz" else open
    with reader(file, "rt", encoding="utf-8") as lines:
        return [SchemaCase(**json.loads(line)) for line in lines]


def compile_cases(cases: Sequence[SchemaCase], limits: Limits) -> list[Compilation]:
    """Compile schemas one after another."""
    tokenizer = _tokenizer(limits.vocabulary)
    return [_compile(case.schema, tokenizer, limits.max_tokens) for case in cases]


def answer_cases(accepted: Sequence[tuple[SchemaCase, int]], limits: Limits) -> list[Answered]:
    """Answers to schemas with the tokens that they need, decoded together: one per temperature and schema."""
    tokenizer = _tokenizer(limits.vocabulary)
    peaks = [_peak_bytes(case.schema, tokenizer, limits.max_tokens) for case, _ in accepted]
    specs = [(json_spec(case.schema), limits.of_answer(needed)) for case, needed in accepted]
    structures = [compile_structure(spec, tokenizer, tokens) for spec, tokens in specs]
    rounds = [
        [
            judged(case.schema, temperature, answer)
            for (case, _), answer in zip(
                accepted, _answers(structures, temperature, seed, limits), strict=True
            )
        ]
        for seed, temperature in enumerate(limits.temperatures)
    ]
    return [Answered(*each) for each in zip(peaks, map(list, zip(*rounds, strict=True)), strict=True)]


def _answers(
    structures: Sequence[Structure], temperature: float, seed: int, limits: Limits
) -> list[UntrainedAnswer]:
    """Answers that are decoded together; one after another if that fails, so that only one gets the error."""
    try:
        return _model(limits).answers(structures, temperature, seed)
    except Exception as error:  # noqa: BLE001 - an error of any type is a finding of the benchmark
        _model.cache_clear()
        if len(structures) == 1:
            return [UntrainedAnswer(error=f"{type(error).__name__}: {error}"[:200])]
        return [answer for each in structures for answer in _answers([each], temperature, seed, limits)]


def _peak_bytes(schema: Any, tokenizer: ChatTokenizer, max_tokens: int) -> int:
    """Peak of the memory that Python and numpy allocate to compile a schema."""
    tracemalloc.start()
    try:
        compile_structure(json_spec(schema), tokenizer, max_tokens)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def judged(schema: Any, temperature: float, answer: UntrainedAnswer) -> JudgedAnswer:
    """An answer and the verdict on it."""
    if answer.error is not None:
        return JudgedAnswer(temperature, answer)
    verdict = judge_text(schema, answer.text)
    return JudgedAnswer(temperature, answer, verdict.judges, verdict.objections)


def load_vocabulary(file: Path) -> ChatTokenizer:
    """The tokenizer of a ``tokenizer.json``; special tokens of LLaDA that it lacks are added."""
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL_TOKENS.values()])
    ids: dict[str, Any] = {role: tokenizer.token_to_id(name) for role, name in SPECIAL_TOKENS.items()}
    return ChatTokenizer(tokenizer, TokenIds(**ids))


def _compile(schema: Any, tokenizer: ChatTokenizer, max_tokens: int) -> Compilation:
    begin = time.perf_counter()
    try:
        with _patience():
            structure: Structure = compile_structure(json_spec(schema), tokenizer, max_tokens)
    except SchemaError as error:
        return Compilation(time.perf_counter() - begin, 0, error.reason, error.code)
    except Exception as error:  # noqa: BLE001 - an error of any other type is a finding of the benchmark
        return Compilation(time.perf_counter() - begin, 0, f"{type(error).__name__}: {error}"[:200])
    return Compilation(time.perf_counter() - begin, structure.min_tokens)


@contextmanager
def _patience() -> Iterator[None]:
    """Raise ``TimeoutError`` if the body runs longer than ``PATIENCE`` seconds."""
    before = signal.signal(signal.SIGALRM, _give_up)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _give_up(*_: object) -> None:
    raise TimeoutError(f"no result within {PATIENCE} seconds")


@cache
def _tokenizer(vocabulary: Path) -> ChatTokenizer:
    return load_vocabulary(vocabulary)


@cache
def _model(limits: Limits) -> UntrainedModel:
    torch.set_num_threads(1)
    return UntrainedModel(_tokenizer(limits.vocabulary), max_positions=2 * limits.max_tokens)
