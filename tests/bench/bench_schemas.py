"""Structured output on real schemas: how many are accepted, and whether all answers are valid.

    python tests/bench/bench_schemas.py
    python tests/bench/bench_schemas.py schemas.jsonl.gz --answers 40
    python tests/bench/bench_schemas.py schemas.jsonl.gz --vocabulary MODEL/tokenizer.json

The file has a JSON object per line: ``set``, ``name`` and ``schema``. Without a file, the schemas are the 60
of ``schemas.jsonl``, which cover every keyword. All schemas are compiled. An untrained model then answers
some of the accepted ones of each set, at the temperatures 0 and 2. ``jsonschema`` and ``jsonschema_rs`` judge
the answers, with ``format`` asserted. ``too long`` counts schemas whose shortest answer exceeds
``--max-tokens``; they are not accepted. ``failed`` counts errors that are not refusals. Memory is the peak of
what is allocated to compile a schema that is answered.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import statistics
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:1] = [str(ROOT), str(ROOT / "platform")]

from tests.bench.reporting import report  # noqa: E402 - the path comes first
from tests.bench.schema_cases import OWN_SCHEMAS, TOO_LONG, TOY_VOCABULARY, Limits, read_cases  # noqa: E402
from tests.bench.schema_findings import Finding, answer_all, compile_all, counted  # noqa: E402
from train.experiments.tables import markdown_table  # noqa: E402

HEADER = ["set", "schemas", "accepted", "share", "too long", "failed", "answered", "answers", "valid"]
HEADER += ["tokens (median)", "compile ms (median)", "compile ms (max)", "MB (max)"]


def main() -> None:
    arguments = _parser().parse_args()
    limits, cases = Limits(arguments.vocabulary, arguments.max_tokens), read_cases(arguments.file)
    findings = compile_all(cases, limits)
    answer_all(choose(findings, arguments.answers, arguments.seed), limits)
    print_tables(findings)
    if arguments.details:
        arguments.details.write_text("".join(map(details, findings)), encoding="utf-8")
    judged = [answer for finding in findings for answer in finding.answers if answer.judges]
    report(
        "structured output: schemas accepted",
        round(statistics.mean(each.compilation.accepted for each in findings), 4),
        "share",
        f"{len(findings)} schemas of {arguments.file.name}",
        valid=sum(answer.valid for answer in judged),
        judged=len(judged),
    )


def choose(findings: Sequence[Finding], answers: int, seed: int) -> list[Finding]:
    """Up to ``answers`` accepted schemas of each set."""
    generator, chosen = random.Random(seed), []
    for of_set in by_set(findings).values():
        accepted = [each for each in of_set if each.compilation.accepted]
        chosen += generator.sample(accepted, min(answers, len(accepted)))
    return chosen


def by_set(findings: Iterable[Finding]) -> dict[str, list[Finding]]:
    """The findings of each set, in the order of the file."""
    sets: dict[str, list[Finding]] = {}
    for finding in findings:
        sets.setdefault(finding.case.set, []).append(finding)
    return sets


def print_tables(findings: Sequence[Finding]) -> None:
    """The table by set, the reasons for refusal with their counts, and what went wrong."""
    rows = [row(name, of_set) for name, of_set in by_set(findings).items()]
    print(markdown_table(HEADER, [*rows, row("all", findings)]), flush=True)
    print(
        "\nrefused", *counted(reason(each) for each in findings if not each.compilation.accepted), sep="\n  "
    )
    print("\nobjections and errors", *counted(problems(findings)), sep="\n  ", flush=True)


def row(name: str, findings: Sequence[Finding]) -> list[str]:
    """The figures of a set."""
    compilations = [each.compilation for each in findings]
    answers = [answer for each in findings for answer in each.answers]
    accepted = sum(each.accepted for each in compilations)
    milliseconds = [1000 * each.seconds for each in compilations]
    return [
        name,
        str(len(findings)),
        str(accepted),
        f"{accepted / len(findings):.3f}",
        str(sum(each.code == TOO_LONG for each in compilations)),
        str(sum(each.refusal is not None and each.code is None for each in compilations)),
        str(sum(each.answered for each in findings)),
        str(len(answers)),
        str(sum(each.valid for each in answers)),
        f"{statistics.median([each.answer.tokens for each in answers] or [0]):.0f}",
        f"{statistics.median(milliseconds):.1f}",
        f"{max(milliseconds):.0f}",
        f"{max(each.peak_bytes for each in findings) / 2**20:.1f}",
    ]


def reason(finding: Finding) -> str:
    """The reason for a refusal without the names and numbers of the schema."""
    text = re.sub(r"'[^']*'|\"[^\"]*\"|`[^`]*`", "...", finding.compilation.refusal or "")
    return f"{finding.compilation.code or 'failed'}: {re.sub(r'[0-9]+', 'N', text)[:150]}"


def problems(findings: Iterable[Finding]) -> Iterator[str]:
    """A line for each answer that failed, that a judge objects to, or that none could judge."""
    for finding in findings:
        for each in finding.answers:
            where = f"{finding.case.set}/{finding.case.name} at temperature {each.temperature:g}"
            if not each.valid:
                yield f"{where}: {each.answer.error or ' | '.join(each.objections) or 'no judge'}"[:300]


def details(finding: Finding) -> str:
    """Everything about a schema as a JSON line, without the schema."""
    content = {**asdict(finding), "case": f"{finding.case.set}/{finding.case.name}"}
    return json.dumps(content, ensure_ascii=False) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", nargs="?", type=Path, default=OWN_SCHEMAS)
    parser.add_argument("--answers", type=int, default=40, help="schemas of each set that are answered")
    parser.add_argument("--seed", type=int, default=0, help="seed of their choice")
    parser.add_argument("--vocabulary", type=Path, default=TOY_VOCABULARY, help="a tokenizer.json")
    parser.add_argument("--max-tokens", type=int, default=Limits.max_tokens, help="longest answer")
    parser.add_argument("--details", type=Path, help="write a JSON line per schema to this file")
    return parser


if __name__ == "__main__":
    main()
