"""A training step against the released way: peak memory and seconds, same weights, batch and noise.

    python tests/bench/bench_training_step.py
    python tests/bench/bench_training_step.py --cases long --no-checkpointing --steps 5

Ours packs the samples and gives masked rows alone to the vocabulary head, a chunk at a time; the released
way pads and makes float32 logits of every position (``released_step.py``). Each way lives in a process of its
own and they step in turn, so that noise of the machine meets both; each step ends in an AdamW update. Before
any timing the two losses must agree, with the padding left out of attention.

Cases: ``short`` and ``long`` answers on samples of mixed lengths; ``even`` has equal lengths: no padding.
Peak memory is resident memory at its highest, given whole and as the step's own share: above what the
process, weights and moments take between steps. The aim of 3x is about the step's own share; what rests is
the same for both.

The vocabulary is LLaDA's, the tower small, which needs reading with care:
- Memory. Float32 logits take 0.5 MB a position at any width (in bf16 training another 0.25 before the cast).
  The layers of the 8B model keep 0.26 MB a position, checkpointed; those here 0.004, or about 0.09 with
  --no-checkpointing, so that one is nearer to 8B. Weights, gradients and moments are about half of the
  released logits here, as they are at 8B for a sample of 16k tokens over 24 GPUs.
- Time. The head is most of the released way's arithmetic here and 7 % of it at 8B. The FLOP column counts the
  same batch at 8B's shape, recomputation included: the speed-up to expect there.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:1] = [str(ROOT), str(ROOT / "platform")]

import torch  # noqa: E402 - the path comes first
from torch import Tensor  # noqa: E402

from lladav.config.schema import LanguageConfig  # noqa: E402
from lladav.model.initialization import initialize  # noqa: E402
from lladav.model.llada_v import LLaDAV  # noqa: E402
from tests.bench.released_step import released_loss  # noqa: E402
from tests.bench.reporting import report, table  # noqa: E402
from tests.bench.training_batch import CASES, Setting, make_batch  # noqa: E402
from train.trainer.flops import language_flops  # noqa: E402

WAYS = "ours", "released"
AGAINST = "the released way: padding, float32 logits of all positions; worst of the cases"
MALLOC_GIVES_BACK = 2**20
"""Blocks from this size on go back to the system when freed: peaks are of memory in use, not of what malloc
hoards."""
HEADER = "case and way", "step's own GB", "peak GB", "median s", "range s", "FLOPs at 8B"


class Trainee:
    """A model, its optimizer and one batch that is trained on again and again in one of the ``WAYS``."""

    def __init__(self, way: str, setting: Setting) -> None:
        torch.set_num_threads(setting.threads)
        self.way = way
        self.batch, self.noises = make_batch(setting)
        self.model = LLaDAV(setting.model())
        initialize(self.model, seed=0)
        self.model.checkpoint_activations(setting.checkpointing)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, weight_decay=0.0)

    def allocate_moments(self) -> None:
        """Update once with gradients of zero: weights stay, the optimizer's state comes into being."""
        for parameter in self.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def loss(self, attend_to_padding: bool = True) -> Tensor:
        """The loss in this way; only the released one can attend to padding."""
        if self.way == "ours":
            return self.model(self.batch)[0]
        return released_loss(self.model, self.batch, self.noises, attend_to_padding)

    def step(self) -> float:
        """Seconds of one optimizer step."""
        begin = time.perf_counter()
        self.loss().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.perf_counter() - begin


@dataclass(frozen=True)
class Cost:
    """What one way took: bytes between steps and at the peak, seconds of each timed step."""

    rest: int
    peak: int
    seconds: list[float]

    @property
    def own(self) -> int:
        """Bytes of the step itself: activations, logits, gradients, the optimizer's scratch."""
        return self.peak - self.rest

    def cells(self) -> list[str]:
        """The table's columns."""
        low, high = min(self.seconds), max(self.seconds)
        sizes = (f"{size / 1e9:.2f}" for size in (self.own, self.peak))
        return [*sizes, f"{statistics.median(self.seconds):.2f}", f"{low:.2f}-{high:.2f}"]


def run_trainee(pipe: Connection, way: str, setting: Setting) -> None:
    """A child process: tells its loss, steps whenever it is asked to, and at the end tells its memory."""
    trainee = Trainee(way, setting)
    trainee.allocate_moments()
    rest = resident_bytes()
    with torch.no_grad():
        pipe.send(float(trainee.loss(attend_to_padding=False)))
    while pipe.recv():
        pipe.send(trainee.step())
    pipe.send((rest, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))


def resident_bytes() -> int:
    """Resident memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


class Child:
    """The parent's end of a process that runs one way."""

    def __init__(self, way: str, setting: Setting) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=run_trainee, args=(theirs, way, setting), daemon=True)
        self.process.start()
        theirs.close()
        self.seconds: list[float] = []

    def step(self) -> None:
        """Have one step done."""
        self.pipe.send(True)
        self.seconds.append(self.answer())

    def finish(self) -> Cost:
        """End the process; its first step warmed up and is not counted."""
        self.pipe.send(False)
        rest, peak = self.answer()
        return Cost(rest, peak, self.seconds[1:])

    def stop(self) -> None:
        """Leave no process behind, whatever happened."""
        self.process.terminate()
        self.process.join()

    def answer(self) -> Any:
        """What the process says next."""
        try:
            return self.pipe.recv()
        except EOFError:
            message = "a training process ended early, perhaps for want of memory; try --width 128"
            raise SystemExit(message) from None


def compare(setting: Setting, steps: int) -> dict[str, Cost]:
    """Both ways side by side, in turn, each going first every other time."""
    with ExitStack() as stack:
        children = {way: Child(way, setting) for way in WAYS}
        for child in children.values():
            stack.callback(child.stop)
        check_losses(setting.case, *(child.answer() for child in children.values()))
        for turn in range(steps + 1):
            for way in WAYS[:: 1 if turn % 2 else -1]:
                children[way].step()
        return {way: child.finish() for way, child in children.items()}


def check_losses(case: str, ours: float, released: float) -> None:
    """The two ways must compute the same thing before it matters how fast."""
    if not abs(ours - released) <= 1e-4 * abs(released):
        raise SystemExit(f"case {case}: our loss is {ours}, the released way's {released}; they must agree")
    print(f"{case}: loss {ours:.6f} ours, {released:.6f} released without padding", flush=True)


@dataclass(frozen=True)
class Comparison:
    """One case: both ways' costs, and the FLOPs of the released way over ours at 8B's shape."""

    case: str
    costs: dict[str, Cost]
    flops: float

    @property
    def own_memory(self) -> float:
        """Released over ours, of the step's own memory."""
        return self.costs["released"].own / self.costs["ours"].own

    @property
    def whole_memory(self) -> float:
        """Released over ours, of all resident memory."""
        return self.costs["released"].peak / self.costs["ours"].peak

    @property
    def speed(self) -> float:
        """Released over ours, of the median seconds of a step."""
        released, ours = (statistics.median(self.costs[way].seconds) for way in ("released", "ours"))
        return released / ours

    def rows(self) -> list[list[str]]:
        """A table row for each way and one for their ratio."""
        ways = [[f"{self.case} {way}", *cost.cells(), ""] for way, cost in self.costs.items()]
        ratios = (f"{ratio:.2f}x" for ratio in (self.own_memory, self.whole_memory, self.speed))
        return [*ways, [f"{self.case} ratio", *ratios, "", f"{self.flops:.2f}x"]]


def flop_ratio(setting: Setting) -> float:
    """FLOPs of the released way over ours for the case's batch at 8B's shape."""
    batch, _ = make_batch(setting)
    lengths = batch.packed.lengths
    padded = [max(lengths)] * len(lengths)
    return step_flops(padded, sum(padded)) / step_flops(lengths, len(batch.masked_M))


def step_flops(lengths: Sequence[int], projected: int) -> float:
    """FLOPs of a checkpointed step at 8B's shape: four forwards' worth in the layers, three in the head."""
    shape = LanguageConfig()
    return 4 * language_flops(lengths, shape) + 3 * 2 * projected * shape.width * shape.vocab_size


def main() -> None:
    options = parse_options()
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(MALLOC_GIVES_BACK))
    results = [compare_case(case, options) for case in options.cases]
    table(HEADER, [row for result in results for row in result.rows()])
    shape = {name: getattr(options, name) for name in ("layers", "width", "vocabulary", "threads")}
    details = {**shape, "checkpointing": options.checkpointing}
    for name, unit, ratio in (
        ("training step: its own peak memory", "x less", "own_memory"),
        ("training step: whole peak memory", "x less", "whole_memory"),
        ("training step: time", "x faster", "speed"),
    ):
        cases = {result.case: round(getattr(result, ratio), 2) for result in results}
        report(name, min(cases.values()), unit, AGAINST, cases=cases, **details)


def compare_case(case: str, options: argparse.Namespace) -> Comparison:
    """Run one case in both ways."""
    shape = options.layers, options.width, options.vocabulary, options.threads
    setting = Setting(case, options.checkpointing, *shape)
    return Comparison(case, compare(setting, options.steps), flop_ratio(setting))


def parse_options() -> argparse.Namespace:
    """The command line."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--checkpointing", action=argparse.BooleanOptionalAction, default=True)
    numbers = {"layers": 4, "width": 256, "vocabulary": 126464, "threads": 2, "steps": 3}
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    return parser.parse_args()


if __name__ == "__main__":
    main()
