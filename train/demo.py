"""The whole training path on this machine, from nothing to answered questions.

    make demo
    make demo ARGS=from=scratch

Prepares the built-in data, takes the towers that lladav ships (or trains them, with ``from=scratch``), starts
a private Ray, submits the curriculum to it as a job, evaluates on the test half of the held-out questions,
draws plots and stops the private Ray. Finished parts are skipped.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from itertools import chain, zip_longest
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[:1] = [str(ROOT), str(ROOT / "platform")]

from data.digits.preparation import prepare  # noqa: E402 - the path comes first
from data.digits.questions import Split  # noqa: E402
from lladav.cluster import CHECKOUT, local_head  # noqa: E402
from lladav.config.cli import HELP_FLAGS, one_line_errors  # noqa: E402
from lladav.config.loader import expand_stages, load  # noqa: E402
from lladav.config.schema import Config  # noqa: E402
from lladav.errors import UserError  # noqa: E402
from lladav.storage import local_path  # noqa: E402
from train.checkpoints.run_folder import Run  # noqa: E402
from train.evaluate import Score, answers, evaluate  # noqa: E402
from train.evaluation.held_out import Answered  # noqa: E402
from train.evaluation.live_table import LiveTable  # noqa: E402
from train.towers import FROM_SCRATCH  # noqa: E402
from train.trainer.progress import format_seconds, report  # noqa: E402

SETTINGS = ["model=tiny", "data=digits", "train.micro_batch=32"]
EVALUATED = {"ov": 3, "vw": 3, "ov_vw": 1}
"""Stages that are evaluated, and which part of the questions they answer: 3 means every third."""
OUT = Path("runs/demo")
SHOWN = 16
NOISE = re.compile(r"(INFO|SUCC) (cli|sdk|job_manager)\.py|^Running entrypoint for job")
"""Lines of ``ray job submit`` that refer to the private Ray, which soon ends."""


def main(arguments: Sequence[str]) -> None:
    """Run the demo in the checkout, or in the current folder where lladav is installed."""
    if HELP_FLAGS & set(arguments):
        print(__doc__)
        return
    os.chdir(CHECKOUT or Path.cwd())
    begin = time.monotonic()
    configs = [load(each) for each in expand_stages(["stage=all", *SETTINGS])]
    with one_line_errors():
        if unknown := set(arguments) - {FROM_SCRATCH}:
            raise UserError(f"{min(unknown)}: not a setting of the demo; the only one is {FROM_SCRATCH}")
        with section("built-in data"):
            prepare(Path(configs[0].data.root))
        with section("towers"):
            _run([sys.executable, _script("towers.py"), *SETTINGS, *arguments], report)
        with section("curriculum: ray job submit -- python train/run.py stage=all"):
            train_all(configs)
        with section("held-out questions, test half"):
            by_stage = evaluate_all([config for config in configs if config.stage.name in EVALUATED])
        with section("plots"):
            draw(configs)
    report(summary(by_stage))
    report(f"\nloss curves  {OUT / 'losses.png'}\nanswers      {OUT / 'answers.png'}")
    report(f"runs         {configs[0].train.storage}/   (tensorboard --logdir {configs[0].train.storage})")
    report(f"took {format_seconds(time.monotonic() - begin)}")


@contextmanager
def section(title: str) -> Iterator[None]:
    """Print a heading before the block and the time that the block took after it."""
    begin = time.monotonic()
    report(f"\n== {title}")
    yield
    report(f"   {format_seconds(time.monotonic() - begin)}")


def train_all(configs: list[Config]) -> None:
    """Submit the curriculum to a private Ray, unless all stages are finished."""
    if all(Run.of(config).finished for config in configs):
        report("all stages are finished")
        return
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with local_head() as head:
        report(f"Ray at {head.address}, dashboard {head.dashboard}")
        submit = ["ray", "job", "submit", f"--address={head.dashboard}", "--", "python", _script("run.py")]
        folders = {config.stage.name: local_path(Run.of(config).path) for config in configs}
        table = LiveTable({stage: folder for stage, folder in folders.items() if folder})
        with table.shown():
            _run([*submit, "stage=all", *SETTINGS], table.show, head.environment)


def evaluate_all(configs: Sequence[Config]) -> dict[str, dict[str, Score]]:
    """Scores of the newest checkpoints on the test half by stage; the stages answer in parallel."""
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        # The last stage takes longest and starts first.
        found = pool.map(_evaluate, reversed(configs))
        by_stage = dict(zip([config.stage.name for config in reversed(configs)], found, strict=True))
    return {config.stage.name: by_stage[config.stage.name] for config in configs}


def _evaluate(config: Config) -> dict[str, Score]:
    import torch

    torch.set_num_threads(1)
    return evaluate(config, Split.test, every=EVALUATED[config.stage.name])


def _script(name: str) -> str:
    """Path of a training command, relative to the current folder, where Ray's jobs start too."""
    return os.path.relpath(ROOT / "train" / name)


def _run(command: list[str], show: Callable[[str], None], environment: dict[str, str] | None = None) -> None:
    """Run a command and show its output; exit with its exit code if it fails."""
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() and not NOISE.search(line):
                show(line.rstrip("\n"))
    if process.returncode:
        raise SystemExit(process.returncode)


def draw(configs: list[Config]) -> None:
    """Plot the loss curves of all stages and answers of the last stage."""
    from train.evaluation.plots import draw_answers, draw_losses
    from train.trainer.step_log import LOG, read_steps

    OUT.mkdir(parents=True, exist_ok=True)
    logs = {config.stage.name: local_path(Run.of(config).path) for config in configs}
    steps = {stage: read_steps(folder / LOG) for stage, folder in logs.items() if folder}
    draw_losses(steps, OUT / "losses.png")
    draw_answers(spread(answers(configs[-1], Split.test), SHOWN), OUT / "answers.png")


def spread(answered: Sequence[Answered], count: int) -> list[Answered]:
    """At most ``count`` answers, alternating between the types of question."""
    by_type = defaultdict(list)
    for one in answered:
        by_type[one.question.type].append(one)
    alternating = chain.from_iterable(zip_longest(*by_type.values()))
    return [one for one in alternating if one is not None][:count]


def summary(by_stage: dict[str, dict[str, Score]]) -> str:
    """Table of exact match and questions by type of question, with a column for each evaluated stage."""
    kinds = list(next(iter(by_stage.values())))
    lines = ["", f"{'exact match':<14}" + "".join(f"{'after ' + stage:>16}" for stage in by_stage)]
    for kind in kinds:
        cells = [f"{scores[kind].accuracy:.1%} of {scores[kind].questions}" for scores in by_stage.values()]
        lines.append(f"{kind:<14}" + "".join(f"{cell:>16}" for cell in cells))
    return "\n".join(lines)


if __name__ == "__main__":
    main(sys.argv[1:])
