"""Model FLOP utilisation of the language tower of LLaDA-8B: forward and backward, bf16, on a GPU.

    python tests/bench/bench_gpu_mfu.py
    python tests/bench/bench_gpu_mfu.py --device cpu --layers 1 --width 64 --tokens 128 512

It runs as many of the 32 layers as fit, with activation checkpointing, without an optimizer and without the
LM head. Useful FLOPs are those of ``platform/lladav/costs/flops.py``: three times the forward pass, without
recomputation. So checkpointing limits the utilisation to three quarters of what the kernels reach. Without a
GPU it prints one line and stops.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:1] = [str(ROOT), str(ROOT / "platform")]

import torch  # noqa: E402 - the path comes first

from lladav.config.schema import LanguageConfig  # noqa: E402
from lladav.costs.flops import language_flops, peak_flops  # noqa: E402
from lladav.model.attention import PackedAttention  # noqa: E402
from lladav.model.language import LanguageTower, rotary_factors  # noqa: E402
from tests.bench.gpu import device_or_skip, gpu_parser  # noqa: E402
from tests.bench.reporting import report, table  # noqa: E402

HEADER = "packed tokens", "layers", "ms", "TFLOP/s", "MFU"
WARMUP_RUNS = 2


@dataclass(frozen=True)
class Utilisation:
    """Seconds of a forward and backward pass, its useful FLOPs, and the peak FLOP/s of the device."""

    lengths: list[int]
    layers: int
    seconds: float
    flops: float
    peak: float

    @property
    def mfu(self) -> float:
        """Useful FLOPs per second as a fraction of the peak."""
        return self.flops / self.seconds / self.peak

    @property
    def tokens(self) -> str:
        """The packed samples, such as 4 x 4096."""
        return f"{len(self.lengths)} x {self.lengths[0]}"

    def row(self) -> list[str]:
        """Cells of a table row."""
        rate = self.flops / self.seconds / 1e12
        return [
            self.tokens,
            str(self.layers),
            f"{self.seconds * 1e3:.1f}",
            f"{rate:.3g}",
            f"{self.mfu:.1%}",
        ]


def layers_that_fit(config: LanguageConfig, tokens: int, free: float) -> int:
    """Number of bf16 layers, with gradients and checkpointed inputs, that fit in ``free`` bytes; at most 32.

    A fifth of the memory, and the activations of the layer that runs, are left free.
    """
    weights = 4 * config.width**2 + 3 * config.width * config.mlp_width
    layer = 2 * 2 * weights + 2 * tokens * config.width
    running = tokens * (40 * config.width + 12 * config.mlp_width)
    return max(1, min(LanguageConfig().layers, int((0.8 * free - running) / layer)))


def build_tower(config: LanguageConfig, device: torch.device) -> LanguageTower:
    """A bf16 tower with activation checkpointing and small random weights."""
    with torch.device(device):
        tower = LanguageTower(config).to(torch.bfloat16)
    for parameter in tower.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    tower.lm_head.requires_grad_(False)
    tower.embed_tokens.requires_grad_(False)
    tower.activation_checkpointing = True
    return tower


def make_run(tower: LanguageTower, lengths: list[int], device: torch.device) -> Callable[[], None]:
    """A forward and backward pass over packed samples, with gradients for weights and input embeddings."""
    positions = torch.cat([torch.arange(length, device=device) for length in lengths])
    rotary, attend = rotary_factors(positions, tower.config), PackedAttention(lengths)
    shape = len(positions), tower.config.width
    embeddings = torch.randn(shape, dtype=torch.bfloat16, device=device, requires_grad=True)
    slope = torch.randn_like(embeddings) / shape[0]

    def run() -> None:
        tower.zero_grad()
        embeddings.grad = None
        tower(embeddings, rotary, attend).backward(slope)

    return run


def seconds_of(run: Callable[[], None], device: torch.device) -> float:
    """Seconds of one run: between CUDA events on a GPU, by the clock on a CPU."""
    if device.type != "cuda":
        begin = time.perf_counter()
        run()
        return time.perf_counter() - begin
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def measure(
    lengths: list[int], config: LanguageConfig, device: torch.device, steps: int, peak: float
) -> Utilisation:
    """Median of ``steps`` runs after a warm-up."""
    run = make_run(build_tower(config, device), lengths, device)
    seconds = [seconds_of(run, device) for _ in range(WARMUP_RUNS + steps)][WARMUP_RUNS:]
    flops = 3 * language_flops(lengths, config)
    return Utilisation(lengths, config.layers, statistics.median(seconds), flops, peak)


def shape_for(options: argparse.Namespace, tokens: int, device: torch.device) -> LanguageConfig:
    """Layers of 8B at the width of the options; the vocabulary is tiny because the head does not run."""
    heads = max(1, options.width // 128)
    mlp_width = 3 * options.width
    config = LanguageConfig(1, options.width, mlp_width, options.layers or 1, heads, heads)
    if not options.layers and device.type == "cuda":
        torch.cuda.empty_cache()  # frees the memory of the previous tower
        config.layers = layers_that_fit(config, tokens, torch.cuda.mem_get_info(device)[0])
    return config


def samples_of(tokens: list[int]) -> list[list[int]]:
    """Sample lengths of each batch: one sample of each length; the longest also split into the shortest."""
    least, most = min(tokens), max(tokens)
    split = [[least] * (most // least)] if most >= 2 * least else []
    return [[count] for count in tokens] + split


def main() -> None:
    options = parse_options()
    device = device_or_skip(options)
    if device is None:
        return
    peak = peak_flops(device)
    if peak is None:
        print("skipped: the peak of this GPU is not known; add it to PEAK_TFLOPS in lladav.costs.flops")
        return
    results = []
    for lengths in samples_of(options.tokens):
        config = shape_for(options, sum(lengths), device)
        results.append(measure(lengths, config, device, options.steps, peak))
    table(HEADER, [result.row() for result in results])
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "this CPU, float32 matrix product"
    for result in results:
        against = f"peak of {name}, {result.peak / 1e12:.3g} TFLOP/s"
        shape = {"tokens": result.tokens, "layers": result.layers, "width": options.width}
        report("language tower: MFU", round(result.mfu, 4), "fraction of peak", against, **shape)


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = gpu_parser(__doc__, 0, "default: as many as fit a GPU; 1 on a CPU")
    parser.add_argument("--tokens", type=int, nargs="+", default=[4096, 16384], help="default 4096 16384")
    parser.add_argument("--steps", type=int, default=10, help="timed runs, default 10")
    return parser.parse_args()


if __name__ == "__main__":
    main()
