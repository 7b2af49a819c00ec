"""What is known about each schema of a benchmark, found by two processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from multiprocessing import get_context
from typing import Any, Generic, TypeVar

from tests.bench.schema_cases import (
    Compilation,
    JudgedAnswer,
    Limits,
    SchemaCase,
    answer_cases,
    compile_cases,
)

PROCESSES = 2
CHUNK = 8
"""Schemas of a task, which are answered together."""
CaseT = TypeVar("CaseT", bound=SchemaCase)
SHOWN = 40
"""Different lines that ``counted`` returns."""


@dataclass
class Finding(Generic[CaseT]):
    """Everything about one schema."""

    case: CaseT
    compilation: Compilation
    answers: list[JudgedAnswer] = field(default_factory=list)
    peak_bytes: int = 0

    @property
    def answered(self) -> bool:
        """Whether the model was asked and decoding did not fail."""
        return bool(self.answers) and all(each.answer.error is None for each in self.answers)


def compile_all(cases: Sequence[CaseT], limits: Limits) -> list[Finding[CaseT]]:
    """Compile all schemas."""
    compilations = in_parallel(compile_cases, cases, limits)
    return [Finding(*pair) for pair in zip(cases, compilations, strict=True)]


def answer_all(findings: Sequence[Finding], limits: Limits) -> None:
    """Answer accepted schemas, and add the answers to their findings."""
    accepted = [(each.case, each.compilation.min_tokens) for each in findings]
    for finding, found in zip(findings, in_parallel(answer_cases, accepted, limits), strict=True):
        finding.answers, finding.peak_bytes = found.answers, found.peak_bytes


def in_parallel(work: Callable[..., list[Any]], items: Sequence[Any], limits: Limits) -> list[Any]:
    """The results of ``work`` for all items, by new processes, so that no cache of another stage is warm."""
    parts = [items[start : start + CHUNK] for start in range(0, len(items), CHUNK)]
    with ProcessPoolExecutor(PROCESSES, get_context("spawn")) as pool:
        return list(chain.from_iterable(pool.map(partial(work, limits=limits), parts)))


def counted(lines: Iterable[str]) -> list[str]:
    """The most frequent lines with their counts."""
    counts = Counter(lines)
    shown = [f"{count:>5}  {line}" for line, count in counts.most_common(SHOWN)]
    return [*shown, f"and {len(counts) - SHOWN} others"] if len(counts) > SHOWN else shown or ["none"]
