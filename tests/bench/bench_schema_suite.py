"""Structured output on the official JSON Schema Test Suite, drafts 2020-12 and 7.

    make schema-suite
    python tests/bench/bench_schema_suite.py FOLDER

FOLDER has a folder of tests for each draft (``draft2020-12/``, ``draft7/``). ``make schema-suite`` downloads
them with the source distribution of ``jsonschema``. An untrained model answers each schema of the suite four
times, at the temperatures 0, 2, 2 and 2. An answer is wrong if the suite has it as an invalid instance, or
if a validator objects and the suite does not have it as a valid one. ``impossible`` counts schemas that are
refused because no value is valid, although the suite has a valid instance. The Markdown table is by keyword.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:1] = [str(ROOT), str(ROOT / "platform")]

from tests.bench.reporting import report  # noqa: E402 - the path comes first
from tests.bench.schema_cases import JudgedAnswer, Limits, SchemaCase  # noqa: E402
from tests.bench.schema_findings import Finding, answer_all, compile_all, counted  # noqa: E402
from train.experiments.tables import markdown_table  # noqa: E402

DOWNLOADED = ROOT / ".cache" / "schema_suite"
DRAFTS = {
    "draft2020-12": "https://json-schema.org/draft/2020-12/schema",
    "draft7": "http://json-schema.org/draft-07/schema#",
}
"""Folder of each draft, and its URI."""
LIMITS = Limits(temperatures=(0.0, 2.0, 2.0, 2.0))
COLUMNS = ("accepted", "wrong", "impossible")
IMPOSSIBLE = "impossible_schema"


@dataclass(frozen=True)
class SuiteCase(SchemaCase):
    """A schema of the suite and its instances; ``set`` is the file within the draft's folder."""

    draft: str
    valid: tuple[str, ...]
    """Valid instances, as ``normal_text`` writes them."""
    invalid: tuple[str, ...]


def main() -> None:
    arguments = _parser().parse_args()
    if not (cases := [case for draft in DRAFTS for case in read_suite(arguments.folder, draft)]):
        print(f"{arguments.folder} has no tests; download them with: make schema-suite")
        return
    findings = compile_all(cases, LIMITS)
    answer_all([each for each in findings if each.compilation.accepted], LIMITS)
    print_table(findings)
    report(
        "structured output: JSON Schema Test Suite, wrong answers",
        sum(map(is_wrong, findings)),
        "schemas",
        f"{len(findings)} schemas of the drafts 2020-12 and 7",
        accepted=sum(each.compilation.accepted for each in findings),
        called_impossible=sum(map(called_impossible, findings)),
    )


def read_suite(folder: Path, draft: str) -> list[SuiteCase]:
    """The schemas of a draft, each with its ``$schema``."""
    top = folder / draft
    return [
        _case(group, draft, file.relative_to(top).with_suffix("").as_posix())
        for file in sorted(top.rglob("*.json"))
        for group in json.loads(file.read_text(encoding="utf-8"))
    ]


def _case(group: dict[str, Any], draft: str, file: str) -> SuiteCase:
    schema, tests = group["schema"], group["tests"]
    valid, invalid = (
        tuple(normal_text(test["data"]) for test in tests if test["valid"] is wanted)
        for wanted in (True, False)
    )
    if isinstance(schema, dict):
        schema = {"$schema": DRAFTS[draft], **schema}
    return SuiteCase(file, group["description"], schema, draft, valid, invalid)


def normal_text(value: Any) -> str:
    """The same text for equal JSON values, and different texts for different ones."""
    return json.dumps(_with_integers(value), sort_keys=True)


def _with_integers(value: Any) -> Any:
    """A value whose floats without a fraction are integers, which equal them in JSON."""
    if isinstance(value, dict):
        return {name: _with_integers(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_with_integers(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def print_table(findings: Sequence[Finding[SuiteCase]]) -> None:
    """The table by keyword, and what was refused or wrong."""
    files = list(dict.fromkeys(finding.case.set for finding in findings))
    rows = [row(name, [each for each in findings if each.case.set == name]) for name in sorted(files)]
    header = ["keyword", *(f"{column}, {draft}" for draft in DRAFTS for column in COLUMNS)]
    print(markdown_table(header, [*rows, row("all", findings)]), flush=True)
    refused = [each for each in findings if not each.compilation.accepted]
    print(
        "\nrefused",
        *counted(f"{_name(each)}: {each.compilation.refusal}"[:250] for each in refused),
        sep="\n  ",
    )
    print("\nwrong", *counted(line for each in findings for line in problems(each)), sep="\n  ", flush=True)


def row(name: str, findings: Sequence[Finding[SuiteCase]]) -> list[str]:
    """The figures of a keyword, draft by draft."""
    cells = [name]
    for draft in DRAFTS:
        found = [each for each in findings if each.case.draft == draft]
        accepted = sum(each.compilation.accepted for each in found)
        wrong, impossible = sum(map(is_wrong, found)), sum(map(called_impossible, found))
        counts = f"{accepted} of {len(found)}", str(wrong), str(impossible)
        cells += counts if found else [""] * len(counts)
    return cells


def called_impossible(finding: Finding[SuiteCase]) -> bool:
    """Whether a schema with a valid instance is refused because it has none."""
    return finding.compilation.code == IMPOSSIBLE and bool(finding.case.valid)


def is_wrong(finding: Finding[SuiteCase]) -> bool:
    """Whether an answer is wrong or failed, or the schema is called impossible."""
    return any(problems(finding))


def problems(finding: Finding[SuiteCase]) -> Iterator[str]:
    """A line for each wrong answer, for each failure, and for a valid schema that is called impossible."""
    if called_impossible(finding):
        yield f"{_name(finding)}: called impossible; the suite has {finding.case.valid[0][:80]}"
    for each in finding.answers:
        if problem := _problem(finding.case, each):
            yield f"{_name(finding)}: {each.answer.text[:80]!r}: {problem}"[:300]


def _problem(case: SuiteCase, judged: JudgedAnswer) -> str | None:
    """Why an answer is wrong."""
    if judged.answer.error is not None:
        return judged.answer.error
    try:
        text = normal_text(json.loads(judged.answer.text))
    except ValueError:
        return "not JSON"
    if text in case.invalid:
        return "an invalid instance of the suite"
    return None if text in case.valid else " | ".join(judged.objections) or None


def _name(finding: Finding[SuiteCase]) -> str:
    return f"{finding.case.draft}/{finding.case.set}: {finding.case.name}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path, default=DOWNLOADED, help="folder with the tests")
    return parser


if __name__ == "__main__":
    main()
