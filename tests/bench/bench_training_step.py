"""Peak memory and time of a training step, compared with the released trainer's.

    python tests/bench/bench_training_step.py
    python tests/bench/bench_training_step.py --cases long --no-checkpointing --steps 5

Weights, batch and noise are the same. Our step packs the samples and applies the LM head to masked positions
only, in chunks. The released step pads the samples and computes float32 logits of every position
(``released_step.py``). Each implementation has a process of its own, and they run in turn, so that noise of
the machine affects both. Each step ends with an AdamW update. Before any timing the two losses must agree,
without attention to padding.

Cases: ``short`` and ``long`` answers on samples of mixed lengths; ``even`` has equal lengths and no padding.
Peak memory is the highest resident memory, in total and as the step's own share: without what the process,
weights and moments take between steps. The aim of 3x is about the step's own share; the rest is the same for
both.

The vocabulary is LLaDA's and the tower is small, so the results do not carry over to 8B directly:
- Memory. Float32 logits take 0.5 MB per position at any width (in bf16 training another 0.25 before the
  cast). The layers of the 8B model keep 0.26 MB per position with checkpointing; those of this tower 0.004,
  or about 0.09 with --no-checkpointing, which is closer to 8B. Weights, gradients and moments are about half
  of the released logits here, as they are at 8B for a sample of 16k tokens over 24 GPUs.
- Time. The head is most of the FLOPs of the released step here and 7 % of them at 8B. The FLOP column counts
  the same batch at the shape of 8B with recomputation: the speed-up to expect there.
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
from lladav.costs.flops import language_flops  # noqa: E402
from lladav.model.initialization import initialize  # noqa: E402
from lladav.model.llada_v import LLaDAV  # noqa: E402
from tests.bench.released_step import released_loss  # noqa: E402
from tests.bench.reporting import report, table  # noqa: E402
from tests.bench.training_batch import CASES, Setting, make_batch  # noqa: E402

IMPLEMENTATIONS = "ours", "released"
AGAINST = "the released step: padding, float32 logits of all positions; worst of the cases"
MALLOC_MMAP_THRESHOLD = 2**20
"""Allocations from this size on return to the system when freed, so that peaks count memory in use and not
memory that malloc keeps."""
HEADER = "case and step", "step's own GB", "peak GB", "median s", "range s", "FLOPs at 8B"


class Trainee:
    """A model, its optimizer and one batch, trained repeatedly with one of the ``IMPLEMENTATIONS``."""

    def __init__(self, implementation: str, setting: Setting) -> None:
        torch.set_num_threads(setting.threads)
        self.implementation = implementation
        self.batch, self.noises = make_batch(setting)
        self.model = LLaDAV(setting.model())
        initialize(self.model, seed=0)
        self.model.checkpoint_activations(setting.checkpointing)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, weight_decay=0.0)

    def allocate_moments(self) -> None:
        """Allocate the optimizer state by an update with zero gradients; the weights do not change."""
        for parameter in self.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def loss(self, attend_to_padding: bool = True) -> Tensor:
        """The loss; only the released implementation can attend to padding."""
        if self.implementation == "ours":
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
    """Bytes between steps and at the peak, and seconds of each timed step."""

    rest: int
    peak: int
    seconds: list[float]

    @property
    def own(self) -> int:
        """Bytes of the step itself: activations, logits, gradients, temporary memory of the optimizer."""
        return self.peak - self.rest

    def cells(self) -> list[str]:
        """Cells of a table row."""
        low, high = min(self.seconds), max(self.seconds)
        sizes = (f"{size / 1e9:.2f}" for size in (self.own, self.peak))
        return [*sizes, f"{statistics.median(self.seconds):.2f}", f"{low:.2f}-{high:.2f}"]


def run_trainee(pipe: Connection, implementation: str, setting: Setting) -> None:
    """Main of a child process: send the loss, run a step per request, and send the memory at the end."""
    trainee = Trainee(implementation, setting)
    trainee.allocate_moments()
    rest = resident_bytes()
    with torch.no_grad():
        pipe.send(float(trainee.loss(attend_to_padding=False)))
    while pipe.recv():
        pipe.send(trainee.step())
    pipe.send((rest, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))


def resident_bytes() -> int:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


class Child:
    """A process that runs one implementation, seen from its parent."""

    def __init__(self, implementation: str, setting: Setting) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=run_trainee, args=(theirs, implementation, setting), daemon=True
        )
        self.process.start()
        theirs.close()
        self.seconds: list[float] = []

    def step(self) -> None:
        """Run one step."""
        self.pipe.send(True)
        self.seconds.append(self.answer())

    def finish(self) -> Cost:
        """End the process and return its cost, without the first step, which is a warm-up."""
        self.pipe.send(False)
        rest, peak = self.answer()
        return Cost(rest, peak, self.seconds[1:])

    def stop(self) -> None:
        """Terminate the process."""
        self.process.terminate()
        self.process.join()

    def answer(self) -> Any:
        """The next message of the process."""
        try:
            return self.pipe.recv()
        except EOFError:
            message = "a training process ended early, perhaps out of memory; try --width 128"
            raise SystemExit(message) from None


def compare(setting: Setting, steps: int) -> dict[str, Cost]:
    """Run both implementations in turn; each goes first every other time."""
    with ExitStack() as stack:
        children = {name: Child(name, setting) for name in IMPLEMENTATIONS}
        for child in children.values():
            stack.callback(child.stop)
        check_losses(setting.case, *(child.answer() for child in children.values()))
        for turn in range(steps + 1):
            for name in IMPLEMENTATIONS[:: 1 if turn % 2 else -1]:
                children[name].step()
        return {name: child.finish() for name, child in children.items()}


def check_losses(case: str, ours: float, released: float) -> None:
    """Exit unless both implementations compute the same loss."""
    if not abs(ours - released) <= 1e-4 * abs(released):
        raise SystemExit(f"case {case}: our loss is {ours}, the released one {released}; they must agree")
    print(f"{case}: loss {ours:.6f} ours, {released:.6f} released without padding", flush=True)


@dataclass(frozen=True)
class Comparison:
    """One case: costs of both implementations, and the ratio of released to our FLOPs at the shape of 8B."""

    case: str
    costs: dict[str, Cost]
    flops: float

    @property
    def own_memory(self) -> float:
        """Ratio of released to our memory of the step itself."""
        return self.costs["released"].own / self.costs["ours"].own

    @property
    def whole_memory(self) -> float:
        """Ratio of released to our resident memory."""
        return self.costs["released"].peak / self.costs["ours"].peak

    @property
    def speed(self) -> float:
        """Ratio of released to our median seconds of a step."""
        released, ours = (statistics.median(self.costs[name].seconds) for name in ("released", "ours"))
        return released / ours

    def rows(self) -> list[list[str]]:
        """A table row for each implementation and one for their ratio."""
        steps = [[f"{self.case} {name}", *cost.cells(), ""] for name, cost in self.costs.items()]
        ratios = (f"{ratio:.2f}x" for ratio in (self.own_memory, self.whole_memory, self.speed))
        return [*steps, [f"{self.case} ratio", *ratios, "", f"{self.flops:.2f}x"]]


def flop_ratio(setting: Setting) -> float:
    """Ratio of released to our FLOPs for the batch of the case at the shape of 8B."""
    batch, _ = make_batch(setting)
    lengths = batch.packed.lengths
    padded = [max(lengths)] * len(lengths)
    return step_flops(padded, sum(padded)) / step_flops(lengths, len(batch.predicted_M))


def step_flops(lengths: Sequence[int], projected: int) -> float:
    """FLOPs of a checkpointed step at the shape of 8B: 4 forward passes of the layers, 3 of the head."""
    shape = LanguageConfig()
    return 4 * language_flops(lengths, shape) + 3 * 2 * projected * shape.width * shape.vocab_size


def main() -> None:
    options = parse_options()
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(MALLOC_MMAP_THRESHOLD))
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
    """Run one case with both implementations."""
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
