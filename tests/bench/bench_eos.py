"""Answers of a checkpoint with and without EOS: exact match and forwards by type of question.

    python tests/bench/bench_eos.py --split test
    python tests/bench/bench_eos.py --model FOLDER --split validation

Asks the built-in held-out questions of one half, on one core in float32, with the settings of
``train/evaluate.py`` for stage ``ov_vw``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:1] = [str(ROOT), str(ROOT / "platform")]

import torch  # noqa: E402 - the path comes first

from data.digits import preparation, records, writers  # noqa: E402
from data.digits.questions import Split  # noqa: E402
from lladav.checkpoint import open_model, shipped_model  # noqa: E402
from lladav.config.loader import load  # noqa: E402
from lladav.decoding.engine import decode  # noqa: E402
from lladav.inputs.chat import ChatTokenizer  # noqa: E402
from tests.bench.reporting import report, table  # noqa: E402
from train.evaluate import BATCH, decoding_options  # noqa: E402
from train.evaluation.held_out import Answered, prompt, read_questions, with_suffixes  # noqa: E402


def main() -> None:
    arguments = _parser().parse_args()
    torch.set_num_threads(1)
    split = Split(arguments.split)
    without, allowed = (measure(arguments.model, split, allow_eos) for allow_eos in (False, True))
    rows = [
        [kind, str(len(without[kind])), *_cells(without[kind]), *_cells(allowed[kind])] for kind in without
    ]
    table(("type", "questions", "exact", "forwards", "exact, EOS", "forwards, EOS"), rows)
    exact = [_mean(each["all"])[0] for each in (without, allowed)]
    report("exact match with EOS", exact[1], "share", "without EOS", without=exact[0])


def measure(model: Path, split: Split, allow_eos: bool) -> dict[str, list[tuple[bool, int]]]:
    """Whether each answer is correct, and its forwards, by type of question and for ``all``."""
    config = load(["stage=ov_vw", "model=tiny", "data=digits"])
    opened, tokenizer = open_model(model, torch.float32), ChatTokenizer.load(model)
    options = decoding_options(config, tokenizer.ids, {"allow_eos": allow_eos})
    found = defaultdict[str, list[tuple[bool, int]]](list)
    with tempfile.TemporaryDirectory() as folder:
        writers.write_questions([*records.held_out(split, preparation.SEED)], Path(folder))
        asked = with_suffixes(read_questions(Path(folder), split), config.stage.suffixes)
        prompts = [prompt(question, opened, tokenizer) for question in asked]
    for start in range(0, len(asked), BATCH):
        answers = decode(opened, prompts[start : start + BATCH], options)
        for question, answer in zip(asked[start : start + BATCH], answers, strict=True):
            correct = Answered(question, tokenizer.decode(answer.tokens)).correct
            for kind in (question.type, "all"):
                found[kind].append((correct, answer.forwards))
    return dict(sorted(found.items()))


def _cells(answers: Sequence[tuple[bool, int]]) -> list[str]:
    exact, forwards = _mean(answers)
    return [f"{exact:.1%}", f"{forwards:.2f}"]


def _mean(answers: Sequence[tuple[bool, int]]) -> tuple[float, float]:
    """The share of correct answers, and the mean of their forwards."""
    correct, forwards = zip(*answers, strict=True)
    return sum(correct) / len(answers), sum(forwards) / len(answers)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=shipped_model(), help="folder of a checkpoint")
    parser.add_argument("--split", default=Split.test.value, choices=[*Split], help="half of the questions")
    return parser


if __name__ == "__main__":
    main()
