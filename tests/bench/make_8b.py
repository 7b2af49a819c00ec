"""Load, answer, convert, train, save and resume at the size of LLaDA-V 8B, on one machine with 24 GB.

    python tests/bench/make_8b.py --folder /tmp/8b

Writes a checkpoint of random weights in the shapes of LLaDA-V, tensor by tensor, and runs the commands of a
user on it. Prints the time and the peak memory of each phase. Needs 24 GB of memory and 40 GB of free disk.
``--model tiny`` does the same with two million parameters.

Memory is the sampled resident memory of all processes of a command; memory that they share counts for each.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:1] = [str(ROOT), str(ROOT / "platform")]

import psutil  # noqa: E402 - the path comes first
import torch  # noqa: E402
from torch import nn  # noqa: E402

from data.digits.preparation import prepare  # noqa: E402
from lladav.checkpoint import export  # noqa: E402
from lladav.config.loader import load  # noqa: E402
from lladav.config.schema import Config  # noqa: E402
from lladav.model.llada_v import LLaDAV  # noqa: E402
from tests.bench.reporting import report, table  # noqa: E402
from train.checkpoints.run_folder import Run  # noqa: E402
from train.trainer.step_log import LOG, read_steps  # noqa: E402

SPREAD = 0.02
"""Standard deviation of the random weights: small enough that activations of 32 layers stay finite."""
SAMPLE_SECONDS = 0.2
GIB = 2**30
TOKENS = {"mask": 2, "bos": 0, "eos": 1, "start_header": 3, "end_header": 4, "eot": 5}
"""Ids of the built-in tokenizer; the published tokenizer is part of the published weights."""

ANSWER = """
import sys
from pathlib import Path
import torch
from PIL import Image
from lladav.checkpoint import open_model
from lladav.generation import generate

folder, loaded = sys.argv[1:]
model = open_model(folder, torch.bfloat16)
Path(loaded).touch()
image = Image.new("RGB", (640, 480), "white")
generate(model, [image], "What is in the image?", max_tokens=4, block_length=4, refresh_interval=4)
"""
"""Does the same as ``python -m lladav.generate``, and creates a file between loading and answering."""


@dataclass
class Phase:
    """A part of a command: it begins when the previous phase ends."""

    name: str
    over: Callable[[], bool] | None = None
    """Whether the phase has ended; None: it ends with the command."""
    seconds: float = 0.0
    peak: int = 0
    """Peak bytes of all processes."""
    largest: int = 0
    """Peak bytes of the largest process."""

    def sample(self, processes: Sequence[psutil.Process]) -> None:
        """Update the peaks."""
        sizes = list(map(_resident, processes))
        self.peak = max(self.peak, sum(sizes))
        self.largest = max(self.largest, *sizes)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="folder to create; removed at the end")
    parser.add_argument("--model", default="llada_v_8b", help="a choice of conf/model")
    parser.add_argument("--weights-only", action="store_true", help="write the checkpoint and keep it")
    options = parser.parse_args()
    config = load(settings(options.folder.absolute(), options.model))
    options.folder.mkdir(parents=True)
    prepare(options.folder / "digits", scale=0.01)
    if options.weights_only:
        make(config, options.folder / "weights")
        return
    try:
        show(options.model, list(measure(options.folder.absolute(), config)))
    finally:
        shutil.rmtree(options.folder)


def settings(folder: Path, model: str) -> list[str]:
    """Settings of a pretrain stage with two steps of one sample each."""
    tokens = [f"model.tokens.{name}={number}" for name, number in TOKENS.items()]
    return [
        *("stage=pretrain", f"model={model}", "data=digits", f"data.root={folder}/digits", *tokens),
        *(f"model.tokenizer={folder}/digits/tokenizer", f"model.weights.llada_v={folder}/weights"),
        *("model.weights.language=null", "model.weights.vision=null"),
        *(f"train.storage={folder}/runs", "train.run=bench", "train.precision=bf16", "data.tasks=1"),
        *("train.micro_batch=1", "stage.global_batch=1", "train.max_steps=2", "train.checkpoint_every=1"),
        *("train.keep_checkpoints=1", "train.loss_chunk=256"),
    ]


def make(config: Config, folder: Path) -> None:
    """Write a checkpoint of random bf16 weights with one tensor in memory at a time."""
    with torch.device("meta"):
        model = LLaDAV(config.model)
    shells = [(name, _shell(parameter)) for name, parameter in model.named_parameters()]
    export(shells, config.model, folder, gather=_filled, tokenizer=config.model.tokenizer)


def _shell(parameter: nn.Parameter) -> nn.Parameter:
    """A parameter without values but with its full shape, as ZeRO-3 leaves it."""
    shell = nn.Parameter(torch.empty(0, dtype=torch.bfloat16), requires_grad=False)
    shell.ds_shape = parameter.shape  # pyright: ignore[reportAttributeAccessIssue]
    return shell


@contextmanager
def _filled(parameters: list[nn.Parameter]) -> Iterator[None]:
    for each in parameters:
        each.data = torch.empty(each.ds_shape, dtype=each.dtype).normal_(0, SPREAD)  # pyright: ignore[reportAttributeAccessIssue]
    yield
    for each in parameters:
        each.data = torch.empty(0, dtype=each.dtype)


def measure(folder: Path, config: Config) -> Iterator[Phase]:
    """Run all phases in order."""
    begin = time.monotonic()
    making = Phase("make a checkpoint")
    make(config, folder / "weights")
    making.seconds = time.monotonic() - begin
    making.peak = making.largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    yield making
    loaded = folder / "loaded"
    answering = python("-c", ANSWER, str(folder / "weights"), str(loaded))
    yield from run(answering, Phase("load", loaded.exists), Phase("answer a question about an image"))
    out = folder / "llada"
    converting = python("train/export.py", f"run={folder}/weights", f"out={out}", "layout=llada")
    yield from run(converting, Phase("convert to LLaDA's layout"))
    shutil.rmtree(out)
    yield from train(folder, config)


def train(folder: Path, config: Config) -> Iterator[Phase]:
    """Run a pretrain step and save; kill the command, resume it and run a second step."""
    store = Run.of(config)
    log = folder / "runs" / store.name / LOG
    command = python("train/run.py", *settings(folder, config.model.name))
    yield from run(
        command,
        Phase("start, and a pretrain step", lambda: len(read_steps(log)) >= 1),
        Phase("save", lambda: store.committed_step() >= 1),
    )
    shutil.rmtree(folder / "weights")  # a resumed run reads the weights of its checkpoint
    yield from run(
        command,
        Phase("resume, and a second step", lambda: len(read_steps(log)) >= 2),
        Phase("save again and end"),
    )
    steps = ", ".join(f"{row['seconds']:.0f} s" for row in read_steps(log))
    sizes = [file.stat().st_size for file in (folder / "runs").rglob("checkpoint-*/**/*") if file.is_file()]
    print(f"steps took {steps}; the checkpoint has {sum(sizes) / 1e9:.3g} GB", flush=True)


def python(*arguments: str) -> list[str]:
    return [sys.executable, *arguments]


def run(command: Sequence[str], *phases: Phase) -> Iterator[Phase]:
    """Run a command through its phases; kill it if it still runs after the last one."""
    paths = {"PYTHONPATH": f"{ROOT}:{ROOT}/platform", "RAY_AUTH_MODE": "disabled"}
    process = psutil.Popen(command, cwd=ROOT, env={**_environment(), **paths}, stdout=subprocess.DEVNULL)
    try:
        for phase in phases:
            _follow(process, phase)
            print(f"{phase.name}: {phase.seconds:.0f} s, {phase.peak / GIB:.1f} GiB", flush=True)
            yield phase
    finally:
        _kill(process)


def _environment() -> dict[str, str]:
    return {key: value for key, value in psutil.Process().environ().items() if not key.startswith("RAY_")}


def _follow(process: psutil.Popen, phase: Phase) -> None:
    begin = time.monotonic()
    while process.poll() is None and not (phase.over and phase.over()):
        phase.sample([process, *process.children(recursive=True)])
        time.sleep(SAMPLE_SECONDS)
    phase.seconds = time.monotonic() - begin
    code = process.poll()
    if code or (code == 0 and phase.over and not phase.over()):
        raise SystemExit(f"{phase.name}: the command ended with exit code {code}")


def _resident(process: psutil.Process) -> int:
    with suppress(psutil.NoSuchProcess):
        return process.memory_info().rss
    return 0


def _kill(process: psutil.Popen) -> None:
    with suppress(psutil.NoSuchProcess):
        for each in [*process.children(recursive=True), process]:
            with suppress(psutil.NoSuchProcess):
                each.kill()
    process.wait()


def show(model: str, phases: Sequence[Phase]) -> None:
    """Print the table and the results."""
    rows = [(p.name, f"{p.seconds:.0f}", f"{p.peak / GIB:.1f}", f"{p.largest / GIB:.1f}") for p in phases]
    table(("phase", "seconds", "GiB of all processes", "GiB of the largest"), rows)
    for phase in phases:
        memory = {"peak_gib": round(phase.peak / GIB, 2), "largest_gib": round(phase.largest / GIB, 2)}
        report(f"{model}: {phase.name}", round(phase.seconds, 1), "s", "this machine", **memory)


if __name__ == "__main__":
    main()
