"""What HTTP and Ray Serve cost: answers over the API at saturation against the same engine alone.

    python tests/bench/bench_serving.py
    python tests/bench/bench_serving.py --width 256 --layers 6 --seconds 60

An untrained model of the size given, on one core, 16 rows. Alone, the engine always has requests that wait;
over the API, twice as many clients as rows ask one question after another. Both take turns, ``--rounds``
times; the figures are medians. Clients, proxy and ingress share the machine's other cores with each other.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:1] = [str(ROOT), str(ROOT / "platform")]

import torch  # noqa: E402 - the path comes first

from lladav.checkpoint import export  # noqa: E402
from lladav.config.schema import TokenIds  # noqa: E402
from lladav.decoding.engine import Engine  # noqa: E402
from lladav.decoding.params import DecodingOptions  # noqa: E402
from lladav.inputs.chat import SYSTEM_PROMPT, ChatTokenizer, Message, encode_prompt  # noqa: E402
from lladav.inputs.samples import Sample  # noqa: E402
from serve.engine.replica import engine_of, open_replica_model  # noqa: E402
from tests.bench.reporting import report, table  # noqa: E402
from tests.lladav.build import tiny_config, tiny_model  # noqa: E402
from tests.serve.apis import settings_of  # noqa: E402
from tests.serve.clusters import ConstantLoad, cluster  # noqa: E402

TOKENIZER = ROOT / "tests/golden/tokenizer"
ROWS, TOKENS, QUESTION = 16, 64, "Count."
WARM_SECONDS = 3.0
SAMPLED = {"temperature": 5.0, "max_tokens": TOKENS}
"""So hot that answers rarely stop early, and are as long on both sides."""


def main() -> None:
    arguments = _parser().parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        model = checkpoint(Path(folder) / "model", arguments.width, arguments.layers)
        rows = measure(model, arguments)
    table(("refresh interval", "engine alone", "over the API", "of it"), rows)


def measure(model: Path, arguments: argparse.Namespace) -> list[tuple[str, ...]]:
    """A row for each refresh interval."""
    given = {"engine__max_rows": ROWS, "engine__max_waiting": ROWS, "decoding__block_length": TOKENS}
    settings = settings_of(model, **given)
    engine = engine_of(open_replica_model(settings), settings)
    tokenizer, rows = ChatTokenizer.load(model), []
    with cluster(model, **given) as served:
        for interval in arguments.intervals:
            rounds = []
            for _ in range(arguments.rounds):
                alone = bare(engine, tokenizer, interval, arguments.seconds)
                rounds.append((alone, over_api(served.address, interval, arguments.seconds)))
            alone, api = (statistics.median(side) for side in zip(*rounds, strict=True))
            report(
                "serving_throughput",
                api / alone,
                "ratio",
                "the engine alone",
                interval=interval,
                alone=alone,
                api=api,
            )
            rows.append((str(interval), f"{alone:.0f} tokens/s", f"{api:.0f} tokens/s", f"{api / alone:.0%}"))
    return rows


def bare(
    engine: Engine, tokenizer: ChatTokenizer, interval: int, seconds: float, max_tokens: int = TOKENS
) -> float:
    """Tokens per second of the engine with as many requests waiting as it has rows."""
    sampled = {**SAMPLED, "max_tokens": max_tokens}
    messages = [Message("system", SYSTEM_PROMPT), Message("user", QUESTION)]
    text, number, tokens = encode_prompt(messages, tokenizer), 0, 0
    begin, counting = time.monotonic(), 0.0
    while (now := time.monotonic()) < begin + WARM_SECONDS + seconds:
        if not counting and now > begin + WARM_SECONDS:
            counting, tokens = now, 0
        while len(engine.waiting) < ROWS:
            options = DecodingOptions.for_chat(
                tokenizer.ids, refresh_interval=interval, seed=number, **sampled
            )
            engine.submit(Sample(str(number), text), options)
            number += 1
        tokens += sum(len(update.answer.confidences) for update in engine.step() if update.answer)
    rate = tokens / (time.monotonic() - counting)
    for name in [*engine.running, *engine.waiting]:
        engine.cancel(name)
    return rate


def over_api(address: str, interval: int, seconds: float) -> float:
    """Tokens per second over the API, of whole answers."""
    given = {**SAMPLED, "refresh_interval": interval, "stream": False}
    with ConstantLoad(address, clients=2 * ROWS, given=given) as load:
        time.sleep(WARM_SECONDS)
        first, begin = len(load.outcomes), time.monotonic()
        time.sleep(seconds)
        last, spent = len(load.outcomes), time.monotonic() - begin
    answers = load.outcomes[first:last]
    assert all(answer.ok for answer in load.outcomes), "a request failed"
    return sum(json.loads(answer.text)["usage"]["completion_tokens"] for answer in answers) / spent


def checkpoint(folder: Path, width: int, layers: int) -> Path:
    """An untrained model of a size, as a checkpoint with its tokenizer."""
    tokenizer = ChatTokenizer.load(TOKENIZER)
    heads = max(1, width // 64)
    config = tiny_config(
        vocab_size=tokenizer.vocab_size,
        width=width,
        mlp_width=3 * width,
        layers=layers,
        heads=heads,
        kv_heads=heads,
    )
    config.tokens = TokenIds(**vars(tokenizer.ids))
    export(tiny_model(config, std=0.02), config, folder, tokenizer=TOKENIZER)
    return folder


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--intervals", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--rounds", type=int, default=3)
    return parser


if __name__ == "__main__":
    main()
