"""The whole training path on this machine, from nothing to answered questions.

    make demo

Prepares the embedded data, makes the towers, starts a private Ray, submits the curriculum to it as a job,
asks the held-out questions, draws pictures, and ends what it started. What is done is not done again.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, zip_longest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[:1] = [str(ROOT), str(ROOT / "platform")]

from data.digits.preparation import prepare  # noqa: E402 - the path comes first
from lladav.cluster import CHECKOUT, local_head  # noqa: E402
from lladav.config.cli import one_line_errors  # noqa: E402
from lladav.config.loader import expand_stages, load  # noqa: E402
from lladav.config.schema import Config  # noqa: E402
from lladav.storage import local_path  # noqa: E402
from train.checkpoints.run_folder import Run  # noqa: E402
from train.evaluate import Score, answers, evaluate  # noqa: E402
from train.evaluation.held_out import Answered  # noqa: E402
from train.trainer.progress import format_seconds, report  # noqa: E402

SETTINGS = ["model=tiny", "data=digits", "train.micro_batch=32"]
EVALUATED = ("ov", "vw", "ov_vw")
OUT = Path("runs/demo")
SHOWN = 16
NOISE = re.compile(r"(INFO|SUCC) (cli|sdk|job_manager)\.py|^Running entrypoint for job")
"""Lines that ``ray job submit`` says for itself; they point at a Ray that is gone soon."""


def main(arguments: Sequence[str]) -> None:
    """Run the demo in the checkout, or in the current folder where lladav is installed."""
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return
    os.chdir(CHECKOUT or Path.cwd())
    begin = time.monotonic()
    configs = [load(each) for each in expand_stages(["stage=all", *SETTINGS])]
    with one_line_errors():
        with chapter("embedded data"):
            prepare(Path(configs[0].data.root))
        with chapter("towers"):
            _run([sys.executable, _script("towers.py"), *SETTINGS])
        with chapter("curriculum: ray job submit -- python train/run.py stage=all"):
            train_all(configs)
        with chapter("held-out questions"):
            by_stage = {c.stage.name: evaluate(c) for c in configs if c.stage.name in EVALUATED}
        with chapter("pictures"):
            draw(configs)
    report(summary(by_stage))
    report(f"\nloss curves  {OUT / 'losses.png'}\nanswers      {OUT / 'answers.png'}")
    report(f"runs         {configs[0].train.storage}/   (tensorboard --logdir {configs[0].train.storage})")
    report(f"took {format_seconds(time.monotonic() - begin)}")


@contextmanager
def chapter(title: str) -> Iterator[None]:
    """A heading, and the time that its part took."""
    begin = time.monotonic()
    report(f"\n== {title}")
    yield
    report(f"   {format_seconds(time.monotonic() - begin)}")


def train_all(configs: list[Config]) -> None:
    """Submit the curriculum to a Ray of our own, unless all of it is done."""
    if all((latest := Run.of(config).latest()) and latest.final for config in configs):
        report("all stages are done")
        return
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with local_head() as head:
        report(f"Ray at {head.address}, dashboard {head.dashboard}")
        submit = ["ray", "job", "submit", f"--address={head.dashboard}", "--", "python", _script("run.py")]
        _run([*submit, "stage=all", *SETTINGS], head.environment)


def _script(name: str) -> str:
    """Path of a training command, relative to the current folder, where Ray's jobs start too."""
    return os.path.relpath(ROOT / "train" / name)


def _run(command: list[str], environment: dict[str, str] | None = None) -> None:
    """Run a command and show what it says; leaves with its exit code where it fails."""
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() and not NOISE.search(line):
                print(line, end="", flush=True)
    if process.returncode:
        raise SystemExit(process.returncode)


def draw(configs: list[Config]) -> None:
    """The loss curves of all stages and a sheet of answers of the last."""
    from train.evaluation.plots import draw_answers, draw_losses
    from train.trainer.step_log import LOG, read_steps

    OUT.mkdir(parents=True, exist_ok=True)
    logs = {config.stage.name: local_path(Run.of(config).path) for config in configs}
    steps = {stage: read_steps(folder / LOG) for stage, folder in logs.items() if folder}
    draw_losses(steps, OUT / "losses.png")
    draw_answers(spread(answers(configs[-1]), SHOWN), OUT / "answers.png")


def spread(answered: Sequence[Answered], count: int) -> list[Answered]:
    """Some answers, taking turns among the types of question."""
    by_type = defaultdict(list)
    for one in answered:
        by_type[one.question.type].append(one)
    turns = chain.from_iterable(zip_longest(*by_type.values()))
    return [one for one in turns if one is not None][:count]


def summary(by_stage: dict[str, dict[str, Score]]) -> str:
    """Exact match by type of question after each evaluated stage."""
    kinds = list(next(iter(by_stage.values())))
    lines = ["", f"{'exact match':<14}{'questions':>10}" + "".join(f"{'after ' + s:>14}" for s in by_stage)]
    for kind in kinds:
        shares = "".join(f"{scores[kind].share:>14.1%}" for scores in by_stage.values())
        lines.append(f"{kind:<14}{next(iter(by_stage.values()))[kind].asked:>10}{shares}")
    return "\n".join(lines)


if __name__ == "__main__":
    main(sys.argv[1:])
