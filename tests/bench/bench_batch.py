"""Batch inference against the bare engine and against one request at a time over HTTP, and its memory.

    python tests/bench/bench_batch.py
    python tests/bench/bench_batch.py --rows 500 --memory-rows 100000

An untrained model of the size given, on one core, 16 rows, the same short questions on all sides. The rate of
the batch counts from its first result to its last; the start of Ray and of the engine is not in it. The bare
engine gets its requests prepared. With ``--memory-rows`` a second batch runs, and the table shows the
resident memory of its command and of its engine as rows are written.

The speed of a machine may change between the sides. So both also count steps of the engine: its rows, its
duration, and the time until the next one. ``batch_at_equal_steps`` is the ratio of the rates if a step took
as long in the batch as in the bare engine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[:1] = [str(ROOT), str(ROOT / "platform")]

import httpx2 as httpx  # noqa: E402 - the path comes first
import numpy as np  # noqa: E402
import psutil  # noqa: E402
import pyarrow as pa  # noqa: E402
import torch  # noqa: E402

from lladav.cluster import connect  # noqa: E402
from lladav.config.schema import ClusterConfig  # noqa: E402
from lladav.decoding.engine import Engine  # noqa: E402
from lladav.decoding.model_runner import Row  # noqa: E402
from lladav.inputs.chat import ChatTokenizer  # noqa: E402
from serve.engine.replica import engine_of, open_replica_model  # noqa: E402
from serve.offline.decoder import RowDecoder  # noqa: E402
from serve.offline.inputs.forms import open_input  # noqa: E402
from serve.offline.pipeline import answers, unanswered  # noqa: E402
from serve.offline.results import ResultForm, TableForm  # noqa: E402
from serve.offline.settings import BatchSettings, load_batch  # noqa: E402
from tests.bench.bench_serving import QUESTION, ROWS, SAMPLED, bare, checkpoint  # noqa: E402
from tests.bench.reporting import report, table  # noqa: E402
from tests.serve.apis import NAME  # noqa: E402
from tests.serve.clusters import cluster  # noqa: E402

WARM_ROWS = 4 * ROWS
SHARES = 10
"""Lines of the table of memory."""


def main() -> None:
    arguments = _parser().parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        model = checkpoint(folder / "model", arguments.width, arguments.layers)
        if arguments.rows:
            compare(model, folder, arguments)
        if arguments.memory_rows:
            memory(model, folder, arguments)


class Steps(NamedTuple):
    """Means of the steps of an engine: rows, seconds of a step, seconds until the next one."""

    rows: float
    seconds: float
    between: float

    def rate(self, seconds: float) -> float:
        """Rows per second of such steps if each takes ``seconds``."""
        return self.rows / (seconds + self.between)


class StepLog:
    """Counts the steps of an engine since the last ``begin``."""

    def __init__(self, engine: Engine) -> None:
        self._step, self._end = engine._runner.step, 0.0
        engine._runner.step = self
        self.begin()

    def begin(self) -> None:
        """Forget all steps."""
        self.steps = self.rows = 0
        self.busy = self.between = 0.0

    def __call__(self, rows: Sequence[Row]) -> Any:
        """Run a step."""
        begin = time.perf_counter()
        self.between += begin - self._end if self.steps else 0.0
        try:
            return self._step(rows)
        finally:
            self._end = time.perf_counter()
            self.steps += 1
            self.rows += len(rows)
            self.busy += self._end - begin

    @property
    def mean(self) -> Steps:
        """Means over all steps."""
        return Steps(self.rows / self.steps, self.busy / self.steps, self.between / self.steps)


class LoggedDecoder(RowDecoder):
    """Writes the means of its engine's steps to a file after each block."""

    def __init__(self, settings: BatchSettings, form: ResultForm) -> None:
        super().__init__(settings, form)
        self._log, self._file = StepLog(self._engine._worker._engine), steps_file(settings)

    async def __call__(self, block: pa.Table) -> pa.Table:
        """The results of a block."""
        results = await super().__call__(block)
        self._file.write_text(json.dumps(self._log.mean))
        return results


def steps_file(settings: BatchSettings) -> Path:
    """Where a batch writes the means of its steps."""
    return Path(settings.output).with_suffix(".steps")


def compare(model: Path, folder: Path, arguments: argparse.Namespace) -> None:
    """Rows per second of the three sides; engine and batch take turns, the figures are medians."""
    file = questions(folder / "rows.jsonl", arguments.rows, arguments.tokens)
    settings = settings_of(model, file, folder / "out", arguments.tokens)
    engine, tokenizer = engine_of(open_replica_model(settings), settings), ChatTokenizer.load(model)
    log, rates, steps = StepLog(engine), [], []
    for _ in range(arguments.rounds):
        log.begin()
        alone = bare(engine, tokenizer, 1, arguments.seconds, arguments.tokens)
        rates.append((alone / arguments.tokens, batch(settings) / arguments.tokens))
        steps.append((log.mean, Steps(*json.loads(steps_file(settings).read_text()))))
    alone, batched = (statistics.median(side) for side in zip(*rates, strict=True))
    equal = statistics.median(two.rate(one.seconds) / one.rate(one.seconds) for one, two in steps)
    single = over_http(model, arguments.http_rows, arguments.tokens)
    report("batch_throughput", batched / alone, "ratio", "the bare engine", alone=alone, batch=batched)
    report("batch_speedup", batched / single, "ratio", "one request at a time over HTTP", http=single)
    sides = {"the bare engine": alone, "the batch": batched, "one at a time over HTTP": single}
    rows = [(name, f"{rate:.1f}", f"{rate / alone:.0%}") for name, rate in sides.items()]
    table(("", "rows/s", "of the bare engine"), rows)
    report("batch_at_equal_steps", equal, "ratio", "the bare engine, a step of the same duration")
    counted = [
        (name, f"{each.rows:.2f}", f"{1000 * each.seconds:.1f}", f"{1000 * each.between:.1f}")
        for both in steps
        for name, each in zip(sides, both, strict=False)
    ]
    table(("steps", "rows", "ms", "ms until the next"), counted)


def questions(file: Path, rows: int, tokens: int) -> Path:
    """Rows like those of the other sides."""
    sampled = {**SAMPLED, "prompt": QUESTION, "max_tokens": tokens}
    file.write_text("".join(f"{json.dumps({**sampled, 'seed': row})}\n" for row in range(rows)))
    return file


def settings_of(model: Path, file: Path, output: Path, tokens: int) -> BatchSettings:
    """Settings of a batch with one engine, whose answers are one block."""
    paths = {"model": str(model), "input": str(file), "output": str(output)}
    return load_batch({**paths, "engine.max_rows": ROWS, "decoding.block_length": tokens})


def batch(settings: BatchSettings) -> float:
    """Tokens per second of a batch, from its first results to its last."""
    source, form = open_input(settings.input), TableForm(pa.schema([]))
    shards = unanswered(source.form, source.shards, np.zeros(source.rows, dtype=bool))
    rows = tokens = 0
    begin = end = 0.0
    with connect(ClusterConfig(name="benchmark")):
        for results in answers(shards, settings, str(source.root), form, LoggedDecoder):
            assert not any(results["failed"].to_pylist()), "a row failed"
            end, rows = time.monotonic(), rows + results.num_rows
            if begin:
                tokens += sum(results["tokens"].to_pylist())
            elif rows >= WARM_ROWS:
                begin = end
    assert rows == source.rows
    return tokens / (end - begin)


def over_http(model: Path, rows: int, tokens: int) -> float:
    """Rows per second of one client that waits for each answer."""
    body = {"model": NAME, "messages": [{"role": "user", "content": QUESTION}]}
    sampled = {**body, **SAMPLED, "max_tokens": tokens}
    given = {"engine__max_rows": ROWS, "decoding__block_length": tokens}
    with cluster(model, **given) as served, httpx.Client(timeout=60) as client:
        url, begin = f"{served.address}/v1/chat/completions", 0.0
        for row in range(rows + 1):
            begin = begin if row != 1 else time.monotonic()
            client.post(url, json={**sampled, "seed": row}).raise_for_status()
        return rows / (time.monotonic() - begin)


def memory(model: Path, folder: Path, arguments: argparse.Namespace) -> None:
    """Print the resident memory of a batch while it runs."""
    rows, output = arguments.memory_rows, folder / "memory"
    file = questions(folder / "many.jsonl", rows, arguments.memory_tokens)
    given = [
        f"model={model}",
        f"input={file}",
        f"output={output}",
        f"engine.max_rows={ROWS}",
        "part_seconds=5",
    ]
    process = subprocess.Popen([sys.executable, str(ROOT / "serve" / "batch.py"), *given])
    lines, due = [], 0
    while process.poll() is None:
        time.sleep(1.0)
        done = written(output)
        if done > due:
            due = done + rows // SHARES
            lines.append((f"{done:,}", *(f"{size / 2**20:,.0f} MiB" for size in resident(process.pid))))
    assert process.returncode == 0
    report("batch_memory_rows", written(output), "rows", "a run of serve/batch.py")
    table(("rows", "command", "engine", "other processes of Ray"), lines)


def written(output: Path) -> int:
    """Rows that are in a part."""
    records = [json.loads(file.read_text())["rows"] for file in (output / "_batch").glob("part-*.json")]
    return sum(last + 1 - first for record in records for first, last in record)


def resident(pid: int) -> Iterator[int]:
    """Resident bytes of the command, of its engine, and of all other processes below it."""
    command = psutil.Process(pid)
    children = command.children(recursive=True)
    engines = [each for each in children if "RowDecoder" in " ".join(each.cmdline())]
    yield command.memory_info().rss
    yield sum(each.memory_info().rss for each in engines)
    yield sum(each.memory_info().rss for each in children if each not in engines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rows", type=int, default=1000, help="0: no comparison")
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=15.0, help="time of the bare engine")
    parser.add_argument("--http-rows", type=int, default=50)
    parser.add_argument("--memory-rows", type=int, default=0, help="0: memory is not measured")
    parser.add_argument("--memory-tokens", type=int, default=1)
    return parser


if __name__ == "__main__":
    main()
