"""Speed of the decoding engine at the shape of LLaDA-8B, compared with what the GPU allows.

    python tests/bench/bench_gpu_decoding.py
    python tests/bench/bench_gpu_decoding.py --graphs
    python tests/bench/bench_gpu_decoding.py --device cpu --layers 1 --width 64 --vocabulary 99 --prompt 50

Weights are random, in bfloat16. Cases: one token per step at several refresh intervals, eight requests
together, and one request with the threshold rule. Random weights have no natural threshold: about
``--unmasked`` positions of the first step pass the one that is used.

The floor of a step is the larger of two times, at rates measured in the same run: its FLOPs at the rate of a
large matrix product, and the bytes of the weights, keys and values that it reads at the rate of a large copy.
A step that forwards T positions, attends to L keys and applies the LM head to M positions takes

    FLOPs = layers * (2 T (4 W^2 + 3 W F) + 4 W T L) + 2 M W V
    bytes = 2 (layers * (4 W^2 + 3 W F + 2 W L) + W V)

with width W, MLP width F and vocabulary V. Without a GPU it prints one line and stops.
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
from lladav.decoding.cuda_graphs import capture_sizes  # noqa: E402
from lladav.decoding.engine import GRAPH_BYTES, Engine, EngineConfig  # noqa: E402
from lladav.decoding.kv_cache import BLOCK_SIZE, kv_block_bytes  # noqa: E402
from lladav.decoding.params import DecodingOptions  # noqa: E402
from lladav.decoding.results import Decoded  # noqa: E402
from lladav.model.llada_v import LLaDAV  # noqa: E402
from tests.bench.gpu import device_or_skip, gpu_parser  # noqa: E402
from tests.bench.reporting import report, table  # noqa: E402
from tests.lladav.build import text_sample, tiny_config  # noqa: E402

BATCH = 8


@dataclass(frozen=True)
class Floor:
    """Shortest times of steps of a model at the rates of a device, in FLOP/s and bytes/s."""

    flops_rate: float
    bytes_rate: float
    config: LanguageConfig

    def flops(self, positions: int, keys: int, candidates: float) -> float:
        """FLOPs of a forward over ``positions`` that attend to ``keys``."""
        width = self.config.width
        layer = 2 * positions * self._layer_weights + 4 * width * positions * keys
        return self.config.layers * layer + 2 * candidates * width * self.config.vocab_size

    def bytes(self, keys: int) -> float:
        """Bytes that a step reads."""
        layer = self._layer_weights + 2 * self.config.width * keys
        return 2 * (self.config.layers * layer + self.config.width * self.config.vocab_size)

    def seconds(self, positions: int, keys: int, candidates: float) -> float:
        """Seconds of one step of one row."""
        return max(
            self.flops(positions, keys, candidates) / self.flops_rate, self.bytes(keys) / self.bytes_rate
        )

    @property
    def _layer_weights(self) -> int:
        return 4 * self.config.width**2 + 3 * self.config.width * self.config.mlp_width


def main() -> None:
    options = parse_options()
    device = device_or_skip(options)
    if device is None:
        return
    model = build_model(options, device)
    floor = Floor(*rates(device), model.config.language)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "this CPU"
    against = f"{name}, {floor.flops_rate / 1e12:.3g} TFLOP/s and {floor.bytes_rate / 1e12:.3g} TB/s measured"
    engine = bench_engine(options, model)
    single(engine, floor, options, against)
    together(engine, floor, options, against)
    by_threshold(engine, options, against)


def single(engine: Engine, floor: Floor, options: argparse.Namespace, against: str) -> None:
    """One request at a time, at each refresh interval."""
    length = options.prompt + options.answer
    rows: list[tuple[int, float, dict[str, float]]] = []
    floors = {
        "refresh": floor.seconds(length, length, options.answer / 2),
        "cached": floor.seconds(options.answer, length, options.answer / 2),
    }
    for interval in options.intervals:
        decoding = DecodingOptions(max_tokens=options.answer, refresh_interval=interval)
        run(engine, options.prompt, decoding, 1)
        _, steps = run(engine, options.prompt, decoding, 1)
        kinds = {
            "refresh": steps[::interval],
            "cached": [each for i, each in enumerate(steps) if i % interval],
        }
        over = {
            kind: statistics.median(times) / floors[kind] if times else float("nan")
            for kind, times in kinds.items()
        }
        rate = options.answer / sum(steps)
        rows.append((interval, rate, over))
    table(
        ["refresh interval", "tokens/s", "refresh / floor", "cached / floor"],
        [
            [str(interval), f"{rate:.1f}", *(f"{value:.2f}" for value in over.values())]
            for interval, rate, over in rows
        ],
    )
    for interval, rate, over in rows:
        report(
            f"decoding one request, refresh interval {interval}",
            round(rate, 1),
            "tokens/s",
            against,
            over_floor={kind: round(value, 2) for kind, value in over.items()},
            floor_ms={kind: round(1e3 * value, 3) for kind, value in floors.items()},
            graphs=options.graphs,
        )


def together(engine: Engine, floor: Floor, options: argparse.Namespace, against: str) -> None:
    """Requests together, as a share of the roofline."""
    length, interval = options.prompt + options.answer, options.intervals[-1]
    decoding = DecodingOptions(max_tokens=options.answer, refresh_interval=interval)
    run(engine, options.prompt, decoding, BATCH)
    answers, steps = run(engine, options.prompt, decoding, BATCH)
    refreshes = -(-options.answer // interval)
    flops = refreshes * floor.flops(length, length, options.answer / 2)
    flops += (options.answer - refreshes) * floor.flops(options.answer, length, options.answer / 2)
    least = max(BATCH * flops / floor.flops_rate, len(steps) * floor.bytes(length) / floor.bytes_rate)
    report(
        f"decoding {BATCH} requests, refresh interval {interval}",
        round(least / sum(steps), 3),
        "of the roofline",
        against,
        tokens_per_second=round(len(answers) * options.answer / sum(steps), 1),
        graphs=options.graphs,
    )


def by_threshold(engine: Engine, options: argparse.Namespace, against: str) -> None:
    """One request with the threshold rule."""
    first = DecodingOptions(max_tokens=options.answer, steps=1)
    (answer,), _ = run(engine, options.prompt, first, 1)
    passed = sorted(answer.confidences)[-min(options.unmasked, options.answer)]
    decoding = DecodingOptions(
        max_tokens=options.answer, threshold=passed, refresh_interval=options.intervals[-1]
    )
    run(engine, options.prompt, decoding, 1)
    (answer,), steps = run(engine, options.prompt, decoding, 1)
    report(
        "decoding one request by threshold",
        round(options.answer / sum(steps), 1),
        "tokens/s",
        against,
        tokens_per_step=round(options.answer / answer.forwards, 2),
        graphs=options.graphs,
    )


def run(
    engine: Engine, prompt: int, decoding: DecodingOptions, requests: int
) -> tuple[list[Decoded], list[float]]:
    """Answers and seconds of each step; a step ends with a copy to the host, so its kernels are done."""
    for n in range(requests):
        engine.submit(text_sample(str(n), prompt, n), decoding)
    answers, seconds = [], []
    while engine.busy:
        begin = time.perf_counter()
        answers += [update.answer for update in engine.step() if update.answer is not None]
        seconds.append(time.perf_counter() - begin)
    return answers, seconds


def rates(device: torch.device) -> tuple[float, float]:
    """FLOP/s of a large matrix product, and bytes/s of a large copy, counting reads and writes."""
    on_gpu = device.type == "cuda"
    size, count = (8192, 2**30) if on_gpu else (512, 2**24)
    matrix = torch.randn(size, size, device=device, dtype=torch.bfloat16 if on_gpu else torch.float32)
    source = torch.empty(count, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    product = best(lambda: torch.mm(matrix, matrix), device)
    return 2 * size**3 / product, 2 * count / best(lambda: target.copy_(source), device)


def best(work: Callable[[], object], device: torch.device, repeats: int = 10) -> float:
    """Seconds of the fastest of several runs."""
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def build_model(options: argparse.Namespace, device: torch.device) -> LLaDAV:
    """The language tower of 8B at the size of the options, with a tiny vision tower."""
    heads = max(1, options.width // 128)
    config = tiny_config()
    config.language = LanguageConfig(
        options.vocabulary, options.width, 3 * options.width, options.layers, heads, heads
    )
    torch.manual_seed(0)  # so that runs with and without graphs unmask the same tokens
    with torch.device(device):
        model = LLaDAV(config).to(torch.bfloat16 if device.type == "cuda" else torch.float32)
    for parameter in model.requires_grad_(False).parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return model


def bench_engine(options: argparse.Namespace, model: LLaDAV) -> Engine:
    """With memory for all requests and, for graphs, a KV block for padding."""
    language, dtype = model.config.language, model.newline.dtype
    blocks = 1 + BATCH * -(-(options.prompt + options.answer) // BLOCK_SIZE)
    prompt_bytes = BATCH * options.prompt * language.width * dtype.itemsize
    memory = blocks * kv_block_bytes(language, dtype, BLOCK_SIZE) + prompt_bytes
    if not options.graphs:
        return Engine(model, EngineConfig(memory, prompt_bytes=prompt_bytes))
    sizes = capture_sizes(BATCH, options.answer, options.answer)
    return Engine(model, EngineConfig(memory + GRAPH_BYTES, graph_sizes=sizes, prompt_bytes=prompt_bytes))


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = gpu_parser(__doc__, 32, "default 32")
    parser.add_argument("--vocabulary", type=int, default=126464, help="default 126464")
    parser.add_argument("--prompt", type=int, default=3000, help="prompt positions, default 3000")
    parser.add_argument("--answer", type=int, default=96, help="tokens, default 96")
    parser.add_argument("--intervals", type=int, nargs="+", default=[2, 8, 32, 48])
    parser.add_argument("--unmasked", type=int, default=4, help="positions above the threshold, default 4")
    parser.add_argument("--graphs", action="store_true", help="cached steps as CUDA graphs")
    return parser.parse_args()


if __name__ == "__main__":
    main()
