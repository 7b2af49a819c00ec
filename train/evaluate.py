"""Evaluate a stage's newest checkpoint on the held-out questions.

    python train/evaluate.py stage=vw model=tiny data=digits
    python train/evaluate.py stage=vw split=test
    python train/evaluate.py stage=vw schema=answer.json

Prints exact match by type of question and writes evaluation.json into the checkpoint's folder. Use the
validation half of the questions (the default) to choose settings, and the test half to report results. With
schema=FILE every answer is JSON that fits the JSON schema in the file; its property "answer" is compared.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[:1] = [str(ROOT), str(ROOT / "platform")]

import lladav  # noqa: E402 - the path comes first
from data.digits.questions import Split  # noqa: E402
from lladav.config.cli import main_arguments, one_line_errors  # noqa: E402
from lladav.config.introspection import choices_hint  # noqa: E402
from lladav.config.schema import Config, Prediction  # noqa: E402
from lladav.errors import UserError  # noqa: E402

if TYPE_CHECKING:
    from lladav.config.schema import TokenIds
    from lladav.decoding.params import DecodingOptions
    from lladav.inputs.chat import ChatTokenizer
    from lladav.structured.compiling import StructureSpec
    from train.evaluation.held_out import Answered, Question

EVALUATION = {Split.validation: "evaluation.json", Split.test: "evaluation-test.json"}
"""File of the saved answers in the checkpoint's folder, by half of the questions."""
SCHEMA_EVALUATION = {Split.validation: "evaluation-schema.json", Split.test: "evaluation-test-schema.json"}
"""The same for answers that fit a schema."""

MAX_TOKENS = 32
SCHEMA_TOKENS = 128
"""Longest answer that fits a schema."""
DEFAULT_BLOCK_LENGTH = 8
"""Tokens of a decoding block if ``objective.block_length`` is not set."""
BATCH = 32
CODE = ("train/evaluate.py", "train/evaluation/held_out.py", "data/digits/questions.py")
"""Files outside of ``platform/`` that determine answers and scores."""


@dataclass(frozen=True)
class Score:
    """Number of questions, and of questions that are answered correctly."""

    questions: int
    correct: int

    @property
    def accuracy(self) -> float:
        return self.correct / self.questions if self.questions else 0.0


def main(arguments: Sequence[str]) -> None:
    """Print the scores of the stages that the arguments name; a user error is one line and exit code 2."""
    with one_line_errors():
        split, others = take_split(arguments)
        schema, settings = take_schema(others)
        for config in main_arguments(settings, __doc__ or ""):
            print(table(config.stage.name, evaluate(config, split, schema)), flush=True)


def take_split(arguments: Sequence[str]) -> tuple[Split, list[str]]:
    """The value of ``split=`` (default: validation), and the other arguments."""
    split, others = _take("split=", arguments)
    if split is not None and split not in list(Split):
        raise UserError(f"split={split}: no such choice{choices_hint(split, Split)}")
    return Split(split or Split.validation), others


def take_schema(arguments: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The file that ``schema=`` names, and the other arguments."""
    file, others = _take("schema=", arguments)
    return Path(file) if file else None, others


def _take(name: str, arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """The last value of the arguments that begin with a name, and the other arguments."""
    values = [each.removeprefix(name) for each in arguments if each.startswith(name)]
    return values[-1] if values else None, [each for each in arguments if not each.startswith(name)]


def evaluate(
    config: Config, split: Split = Split.validation, schema: Path | None = None, every: int = 1
) -> dict[str, Score]:
    """Scores of the stage's newest checkpoint, by type of question; ``schema`` is a file with a JSON schema.

    With ``every`` of 3, every third question of the half is asked. Saved answers are reused unless something
    that determines them has changed. Raises ``UserError`` if the
    stage has no checkpoint or the data set no questions, and for a schema that cannot be guaranteed.
    """
    from lladav.storage.local_cache import local_copy
    from lladav.structured.files import read_schema_file, schema_errors
    from train.checkpoints.run_folder import WEIGHTS, Run

    structure = None if schema is None else read_schema_file(schema)
    run = Run.of(config)
    latest = run.latest()
    if latest is None:
        raise UserError(
            f"run {run.name}: has no checkpoint; train it with: python train/run.py stage={config.stage.name}"
        )
    questions = stage_questions(config, split)[::every]
    file = latest.path / (EVALUATION if structure is None else SCHEMA_EVALUATION)[split]
    key = cache_key(config, latest.step, questions, {"schema": structure.source} if structure else None)
    if not file.exists() or json.loads(file.read_text()).get("key") != key:
        with schema_errors(f"schema={schema}"):
            answers = answer_all(local_copy(latest.path / WEIGHTS), config, questions, structure=structure)
        file.write_text(json.dumps({"key": key, **answers}, indent=1))
    return scores(json.loads(file.read_text())["answers"])


def cache_key(
    config: Config, step: int, questions: Sequence[Question], decoding: Mapping[str, Any] | None = None
) -> str:
    """Hash of everything that determines the answers: checkpoint, questions, settings and code."""
    asked = [(question.id, question.type, question.text, question.answer) for question in questions]
    settings = sorted({**usual_decoding(config), **(decoding or {})}.items())
    digest = hashlib.sha256(json.dumps([step, asked, settings]).encode())
    library = sorted(Path(lladav.__file__).parent.rglob("*.py"))
    images = sorted({path for question in questions for path in question.media})
    for file in [*library, *(ROOT / name for name in CODE), *images]:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def usual_decoding(config: Config) -> dict[str, Any]:
    """Arguments of ``DecodingOptions.for_chat``: the length of an answer and, for masked diffusion, of its
    blocks, and whether it may contain EOS.
    """
    if config.model.prediction is Prediction.next_token:
        return {"max_tokens": MAX_TOKENS}
    block_length = config.objective.block_length or DEFAULT_BLOCK_LENGTH
    return {"max_tokens": MAX_TOKENS, "block_length": block_length, "allow_eos": config.model.allow_eos}


def answers(config: Config, split: Split = Split.validation) -> list[Answered]:
    """The answers that ``evaluate`` has saved for the newest checkpoint."""
    from train.checkpoints.run_folder import Run
    from train.evaluation.held_out import Answered, read_questions

    latest = Run.of(config).latest()
    rows = json.loads((latest.path / EVALUATION[split]).read_text())["answers"] if latest else []
    questions = {question.id: question for question in read_questions(_questions_folder(config), split)}
    return [Answered(questions[row["id"]], row["answer"]) for row in rows]


def _questions_folder(config: Config) -> Path:
    from lladav.storage import location
    from lladav.storage.local_cache import local_copy

    return local_copy(location(config.data.root) / "held_out")


def stage_questions(config: Config, split: Split = Split.validation) -> list[Question]:
    """The questions with the stage's suffixes, sorted by type."""
    from train.evaluation.held_out import read_questions, with_suffixes

    asked = with_suffixes(read_questions(_questions_folder(config), split), config.stage.suffixes)
    return sorted(asked, key=lambda question: question.type)


def decoding_options(
    config: Config, ids: TokenIds, changed: Mapping[str, Any] | None = None
) -> DecodingOptions:
    """How held-out questions are decoded; ``changed`` are some of ``usual_decoding`` or others."""
    from lladav.decoding.params import DecodingOptions

    settings = {**usual_decoding(config), **(changed or {})}
    return DecodingOptions.for_chat(ids, config.model.prediction, **settings)


def answer_all(
    weights: Path,
    config: Config,
    questions: Sequence[Question],
    decoding: Mapping[str, Any] | None = None,
    structure: StructureSpec | None = None,
) -> dict[str, Any]:
    """Answer the questions; returns the content of the file without its key."""
    import torch

    from lladav.checkpoint import open_model
    from lladav.inputs.chat import ChatTokenizer
    from train.evaluation.held_out import answer_questions, text_of_json

    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = ChatTokenizer.load(weights)
    changed = dict(decoding or {})
    if structure is not None:
        changed |= _structured(tokenizer, config, structure)
    options = decoding_options(config, tokenizer.ids, changed)
    model = open_model(weights, torch.float32, device)
    begin = time.monotonic()
    answered = answer_questions(model, tokenizer, questions, options, BATCH)
    if structure is not None:
        answered = (replace(each, answer=text_of_json(each.answer)) for each in answered)
    rows = [each.row for each in answered]
    return {"seconds": round(time.monotonic() - begin, 1), "answers": rows}


def _structured(tokenizer: ChatTokenizer, config: Config, structure: StructureSpec) -> dict[str, Any]:
    """Fields of ``DecodingOptions`` for answers that have a structure."""
    from lladav.generation import structured_settings

    length = {"max_tokens": SCHEMA_TOKENS, "block_length": None}
    return structured_settings(tokenizer, config.model.prediction, structure, length)


def scores(answers: Sequence[Mapping[str, Any]]) -> dict[str, Score]:
    """Scores by type of question; the last one, ``all``, is over all types."""
    found: dict[str, list[bool]] = defaultdict(list)
    for answer in answers:
        found[answer["type"]].append(answer["correct"])
    every = [correct for kind in found.values() for correct in kind]
    return {kind: Score(len(right), sum(right)) for kind, right in {**found, "all": every}.items()}


def table(stage: str, by_type: dict[str, Score]) -> str:
    """The scores as a table for the terminal."""
    lines = [f"{stage}: held-out questions answered exactly"]
    lines += [
        f"  {kind:<12} {s.correct:>4} of {s.questions:<4} {s.accuracy:6.1%}" for kind, s in by_type.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main(sys.argv[1:])
