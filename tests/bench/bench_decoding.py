"""Speed of the decoding engine, compared with the published decoder and with lock-step batches.

    python tests/bench/bench_decoding.py
    python tests/bench/bench_decoding.py --cases single structured --intervals 8 32

Case ``single``: one request, by the engine and by a plain transcription of the published decoder, in turn;
the tokens must be equal. Case ``mixed``: eight requests of different lengths and options together, the same
requests one after another, and as a lock-step batch: all as long as the longest, with the options of the most
demanding. The engine runs all three, so only scheduling differs. Making an engine is not timed. Case
``structured``: one request without an outline, and the same as a string that fills the canvas, in turn. Both
write one token per step, so the difference is the cost of the automaton. Case ``adapters``: eight requests in
an engine without adapters, of one adapter of rank 16, and of four adapters, two requests each, in turn.

The model has random weights: 8 layers of width 512 and LLaDA's vocabulary.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:1] = [str(ROOT), str(ROOT / "platform")]

import numpy as np  # noqa: E402 - the path comes first
import torch  # noqa: E402

from lladav.config.schema import LanguageConfig  # noqa: E402
from lladav.decoding.engine import Decoded, Engine, EngineConfig  # noqa: E402
from lladav.decoding.kv_cache import kv_block_bytes  # noqa: E402
from lladav.decoding.params import DecodingOptions  # noqa: E402
from lladav.decoding.prompt_encoder import PromptEncoder  # noqa: E402
from lladav.inputs.samples import Sample  # noqa: E402
from lladav.model.initialization import initialize  # noqa: E402
from lladav.model.llada_v import LLaDAV  # noqa: E402
from lladav.structured.forms import StringForm  # noqa: E402
from lladav.structured.languages.building import Automata  # noqa: E402
from lladav.structured.languages.vocabulary import Vocabulary  # noqa: E402
from lladav.structured.outline import Slot  # noqa: E402
from tests.bench.reporting import report, table  # noqa: E402
from tests.lladav.adapted import RandomAdapter, adapted  # noqa: E402
from tests.lladav.build import text_sample, tiny_config  # noqa: E402
from tests.lladav.decoding.outlines import TreeOutline  # noqa: E402
from tests.lladav.decoding.reference_decoder import reference_decode  # noqa: E402

SHAPE = {"vocab_size": 126464, "width": 512, "mlp_width": 1536, "layers": 8, "heads": 8, "kv_heads": 8}
PROMPT, ANSWER = 700, 64
CASES = ["single", "mixed", "structured", "adapters"]
MIX = [
    (300, DecodingOptions(max_tokens=32, refresh_interval=8)),
    (700, DecodingOptions(max_tokens=64, refresh_interval=32)),
    (150, DecodingOptions(max_tokens=16, refresh_interval=4)),
    (500, DecodingOptions(max_tokens=64, block_length=32, refresh_interval=16)),
    (80, DecodingOptions(max_tokens=32, tokens_per_step=2, refresh_interval=8)),
    (650, DecodingOptions(max_tokens=48, refresh_interval=16)),
    (400, DecodingOptions(max_tokens=64, tokens_per_step=2, refresh_interval=16)),
    (250, DecodingOptions(max_tokens=24, refresh_interval=8)),
]
"""Prompt lengths and options of the mixed case."""


def main() -> None:
    arguments = _parser().parse_args()
    model = bench_model()
    if "single" in arguments.cases:
        for interval in arguments.intervals:
            single(model, interval, arguments.rounds)
    if "mixed" in arguments.cases:
        mixed(model, arguments.rounds)
    if "structured" in arguments.cases:
        for interval in arguments.intervals:
            structured(model, interval, arguments.rounds)
    if "adapters" in arguments.cases:
        for interval in arguments.intervals:
            adapters(model, interval, arguments.rounds)


def bench_model() -> LLaDAV:
    """Random weights; those of the head are large, so that rounding does not decide between tokens."""
    config = tiny_config()
    config.language = LanguageConfig(**SHAPE, max_positions=4096)
    model = LLaDAV(config).eval().requires_grad_(False)
    initialize(model, seed=0)
    model.language.lm_head.weight.mul_(10)
    return model


def single(model: LLaDAV, interval: int, rounds: int) -> None:
    """One request at a time, by the engine and by the published decoder in turn."""
    prompt = text_sample("p", PROMPT)
    embeddings_PW, _ = PromptEncoder(model, 0).encode(prompt)
    options = DecodingOptions(max_tokens=ANSWER, refresh_interval=interval)
    engine = bench_engine(model)
    engine_times: list[float] = []
    reference_times: list[float] = []
    for _ in range(rounds):
        reference = timed(
            reference_times,
            lambda: reference_decode(
                model,
                embeddings_PW,
                gen_length=ANSWER,
                block_length=ANSWER,
                steps=ANSWER,
                refresh_interval=interval,
            ),
        )
        ours = timed(engine_times, lambda: run(engine, [(prompt, options)])[0])
        if ours.tokens != reference.tokens:
            raise SystemExit(f"tokens differ at refresh interval {interval}")
    rows = [
        [name, f"{ANSWER / statistics.median(times):.2f}"]
        for name, times in (("engine", engine_times), ("published", reference_times))
    ]
    table(["one request", "tokens/s"], rows)
    report(
        f"decoding, refresh interval {interval}",
        round(statistics.median(reference_times) / statistics.median(engine_times), 2),
        "x tokens/s",
        "a plain transcription of the published decoder, equal tokens",
        tokens_per_second=[
            round(ANSWER / statistics.median(times), 2) for times in (engine_times, reference_times)
        ],
        rounds=rounds,
    )


def mixed(model: LLaDAV, rounds: int) -> None:
    """Eight requests: together, one by one, and in lock step."""
    requests = [(text_sample(f"{n}", length, n), options) for n, (length, options) in enumerate(MIX)]
    longest, hardest = max(length for length, _ in MIX), DecodingOptions(max_tokens=64, refresh_interval=4)
    lock_step = [(text_sample(f"{n}", longest, n), hardest) for n in range(len(MIX))]
    engine = bench_engine(model)
    times: dict[str, list[float]] = {"together": [], "one by one": [], "lock step": []}
    for _ in range(rounds):
        timed(times["together"], lambda: run(engine, requests))
        timed(times["one by one"], lambda: [run(engine, [request]) for request in requests])
        timed(times["lock step"], lambda: run(engine, lock_step))
    tokens = sum(options.max_tokens for _, options in MIX)
    medians = {name: statistics.median(values) for name, values in times.items()}
    table(
        ["eight requests", "tokens/s"], [[name, f"{tokens / value:.2f}"] for name, value in medians.items()]
    )
    for other in ("one by one", "lock step"):
        report(
            f"eight mixed requests together, against {other}",
            round(medians[other] / medians["together"], 2),
            "x tokens/s",
            other,
            rounds=rounds,
        )


def structured(model: LLaDAV, interval: int, rounds: int) -> None:
    """The same request without an outline and with one, in turn."""
    prompt, engine = text_sample("p", PROMPT), bench_engine(model)
    free = DecodingOptions(max_tokens=ANSWER, refresh_interval=interval)
    automaton = Automata(random_vocabulary(SHAPE["vocab_size"])).string(StringForm(), quoted=False)
    outline = TreeOutline([Slot(automaton, ANSWER)])
    kinds = {"free": free, "string": replace(free, outline=outline)}
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(rounds):
        for name, options in kinds.items():
            (answer,) = timed(times[name], lambda options=options: run(engine, [(prompt, options)]))
            assert answer.forwards == ANSWER
    medians = {name: statistics.median(values) for name, values in times.items()}
    table(["one request", "tokens/s"], [[name, f"{ANSWER / value:.2f}"] for name, value in medians.items()])
    report(
        f"a string by its automaton, refresh interval {interval}",
        round(medians["free"] / medians["string"], 3),
        "x tokens/s",
        "the same request without an outline",
        tokens_per_second=[round(ANSWER / value, 2) for value in medians.values()],
        rounds=rounds,
    )


def adapters(model: LLaDAV, interval: int, rounds: int) -> None:
    """Eight requests of the base, of one adapter, and of four adapters, in turn."""
    own = {str(n): adapted(model, RandomAdapter(rank=16, std=0.02, seed=n)) for n in range(4)}
    cases = {"no adapter": {}, "one adapter": {"0": own["0"]}, "four adapters": own}
    engines = {name: bench_engine(model, case) for name, case in cases.items()}
    options = DecodingOptions(max_tokens=8, refresh_interval=interval)
    requests = [(text_sample(f"{n}", 100, n), options) for n in range(8)]
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, case in cases.items():
            timed(times[name], lambda name=name, case=case: run(engines[name], requests, [*case] or [None]))
    medians = {name: statistics.median(values) for name, values in times.items()}
    tokens = len(requests) * options.max_tokens
    rows = [[name, f"{tokens / value:.2f}"] for name, value in medians.items()]
    table(["eight requests", "tokens/s"], rows)
    base, *others = medians
    for name in others:
        report(
            f"eight requests, {name} of rank 16, refresh interval {interval}",
            round(medians[base] / medians[name], 3),
            "x tokens/s",
            "the same requests in an engine without adapters",
            rounds=rounds,
        )


def random_vocabulary(size: int) -> Vocabulary:
    """Tokens of random bytes: all single bytes, then words, some with a space, quotation mark or comma."""
    rng = np.random.default_rng(0)
    letters = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz", np.uint8)
    words = [rng.choice(letters, rng.integers(2, 9)).tobytes() for _ in range(size - 256)]
    marks = rng.choice([b"", b" ", b'"', b",", b'": "'], len(words), p=(0.45, 0.45, 0.04, 0.04, 0.02))
    tokens = [mark + word for mark, word in zip(marks, words, strict=True)]
    return Vocabulary([*(bytes([byte]) for byte in range(256)), *tokens])


def bench_engine(model: LLaDAV, adapters: Mapping[str, LLaDAV] | None = None) -> Engine:
    """An engine with a KV cache for all requests."""
    config = EngineConfig(80 * kv_block_bytes(model.config.language, torch.float32, 256))
    return Engine(model, config, adapters)


def run(
    engine: Engine,
    requests: Sequence[tuple[Sample, DecodingOptions]],
    adapters: Sequence[str | None] = (None,),
) -> list[Decoded]:
    """Answers of requests that arrive together, to adapters in turn, in the order in which they finish."""
    for (prompt, options), adapter in zip(requests, cycle(adapters), strict=False):
        engine.submit(prompt, options, adapter=adapter)
    answers = []
    while engine.busy:
        answers += [update.answer for update in engine.step() if update.answer is not None]
    return answers


def timed(times: list[float], work: Callable):
    """Return the result of ``work`` and append its seconds to ``times``."""
    begin = time.perf_counter()
    result = work()
    times.append(time.perf_counter() - begin)
    return result


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", default=CASES, choices=CASES)
    parser.add_argument("--intervals", nargs="+", type=int, default=[8, 32])
    parser.add_argument("--rounds", type=int, default=3)
    return parser


if __name__ == "__main__":
    main()
