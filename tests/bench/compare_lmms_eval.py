"""Compares the answers of LMMs-Eval with those of ``train/evaluate.py``, question by question.

    make lmms-eval
    make lmms-eval ARGS="--model FOLDER --questions 120 --refresh-interval 4"

LMMs-Eval answers a local task over held-out questions (images, several images, videos): with the model
``lladav`` in one process and in two Ray actors, and with its model ``openai`` over HTTP. Without ``--model``
the weights are random: the answers make no sense, but have to be the same. Exits with code 1 if any differ.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:1] = [str(ROOT), str(ROOT / "platform")]

from data.digits.preparation import prepare  # noqa: E402 - the path comes first
from lladav.checkpoint import export  # noqa: E402
from lladav.config.cli import one_line_errors  # noqa: E402
from lladav.config.loader import load  # noqa: E402
from lladav.config.schema import Config  # noqa: E402
from tests.lladav.build import tiny_model  # noqa: E402
from tests.serve.apis import LocalEngines, serving, settings_of  # noqa: E402
from train.benchmarks.held_out_task import TASK, write_task  # noqa: E402
from train.benchmarks.lmms_eval_runs import LMMsEvalRun, run  # noqa: E402
from train.benchmarks.task_model import released_form  # noqa: E402
from train.evaluate import MAX_TOKENS, answer_all, decoding_options, stage_questions  # noqa: E402
from train.evaluation.held_out import Question  # noqa: E402

STD = 0.1
"""Standard deviation of random weights; answers then differ from question to question."""
TOGETHER = 8
"""Requests that are decoded together."""
ALIAS = "evaluated"
MIN_DISTINCT = 5
"""Distinct answers below which the comparison says nothing."""
MAX_SHOWN = 5
"""Different answers that are printed."""


@dataclass(frozen=True)
class Comparison:
    """One set of questions, and how they are answered."""

    python: Path
    folder: Path
    config: Config
    model: Path
    questions: Sequence[Question]
    decoding: Mapping[str, Any]

    @property
    def block_length(self) -> int | None:
        return decoding_options(self.config, self.config.model.tokens).block_length

    def expected(self) -> list[str]:
        """The answers of ``train/evaluate.py``."""
        rows = answer_all(self.model, self.config, self.questions, self.decoding)["answers"]
        return [row["answer"] for row in rows]

    def found(self) -> Iterator[tuple[str, list[str]]]:
        """The answers of LMMs-Eval in each way."""
        arguments = {
            "model": self.model,
            "dtype": "float32",
            "block_length": self.block_length,
            "image_joint": "newline",
            **self.decoding,
        }
        yield "in process", self._answers("in-process", arguments)
        yield "in two Ray actors", self._answers("actors", {**arguments, "replicas": 2})
        yield "over HTTP", self._answers_over_http()

    def _answers_over_http(self) -> list[str]:
        videos = {str(q.media[0].parent.absolute()) for q in self.questions if q.is_video}
        settings = settings_of(
            self.model,
            engine__dtype="float32",
            decoding__block_length=self.block_length,
            aliases={ALIAS: dict(self.decoding)},
            media__directories=sorted(videos),
        )
        engines = LocalEngines(settings)
        with serving(settings, engines) as address:
            arguments = {
                "model_version": ALIAS,
                "base_url": f"{address}/v1",
                "api_key": "none",
                "timeout": 300,
                "num_concurrent": TOGETHER,
                "pass_video_url": True,
                "max_frames_num": self.config.model.images.inference_frames,
            }
            answers = self._answers("http", arguments, "openai")
        engines.worker.stop()
        return answers

    def _answers(self, name: str, arguments: Mapping[str, Any], model: str = "lladav") -> list[str]:
        call = LMMsEvalRun(
            self.python,
            [TASK],
            self.folder / name,
            model,
            arguments,
            batch_size=TOGETHER,
            include=self.folder / "task",
            offline=True,
        )
        answers = [each.answer for each in run(call).answers[TASK]]
        for line in call.log.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("lladav: "):
                print(f"  {name}: {line.removeprefix('lladav: ')}", flush=True)
        return answers


def main(arguments: Sequence[str]) -> int:
    """Compare, and return the exit code."""
    logging.getLogger("ray.serve.requests").setLevel(logging.WARNING)  # no line for each request
    with one_line_errors():
        return compare(_prepared(_parser().parse_args(arguments)))


def compare(comparison: Comparison) -> int:
    """Print how many answers are the same, and some that are not; 1 if any differ."""
    questions = comparison.questions
    usual = [released_form(answer.strip()) for answer in comparison.expected()]
    code = int(len(set(usual)) < MIN_DISTINCT)
    print(f"{len(questions)} questions, {len(set(usual))} distinct answers of train/evaluate.py", flush=True)
    for way, answers in comparison.found():
        given = [released_form(answer) for answer in answers]
        differing = [n for n, pair in enumerate(zip(usual, given, strict=True)) if pair[0] != pair[1]]
        code = code or int(bool(differing))
        same = len(questions) - len(differing)
        print(f"LMMs-Eval {way}: {same} of {len(questions)} answers are the same", flush=True)
        for number in differing[:MAX_SHOWN]:
            question = questions[number]
            print(f"  {question.id} ({question.type}): {given[number]!r} instead of {usual[number]!r}")
    return code


def _prepared(given: argparse.Namespace) -> Comparison:
    """Write the questions, the task and, without ``--model``, a model."""
    folder = Path(given.out).absolute()
    data = folder / "digits"
    prepare(data, scale=0.02)  # the held-out questions are the same at each scale
    settings = ["stage=ov_vw", "model=tiny", "data=digits"]
    config = load([*settings, f"data.root={data}", f"model.tokenizer={data}/tokenizer"])
    model = Path(given.model).absolute() if given.model else _random_model(config, folder / "model")
    questions = stage_questions(config)
    questions = questions[:: max(1, len(questions) // given.questions)]
    write_task(questions, folder / "task", MAX_TOKENS)
    decoding = {"refresh_interval": given.refresh_interval}
    return Comparison(Path(given.python).absolute(), folder, config, model, questions, decoding)


def _random_model(config: Config, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier call
    export(tiny_model(config.model, std=STD), config.model, folder, tokenizer=config.model.tokenizer)
    return folder


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--python", default=".venv-lmms-eval/bin/python", help="interpreter with LMMs-Eval")
    parser.add_argument("--model", help="folder of a checkpoint; default: random weights")
    parser.add_argument("--questions", type=int, default=60, help="about this many (default 60)")
    parser.add_argument("--refresh-interval", type=int, default=2)
    parser.add_argument(
        "--out", default="runs/lmms-eval", help="folder of the files (default runs/lmms-eval)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
