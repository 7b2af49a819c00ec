"""Throughput of the data pipeline compared with a plain torch DataLoader, in samples per second.

    python tests/bench/bench_data.py
    python tests/bench/bench_data.py --cases photos --rounds 5
    python tests/bench/bench_data.py --parts --cases photos digits text

Both sides read, decode, tile and tokenize with the same functions and return the same micro-batches in the
same order. Ray Data runs as many concurrent tasks as the DataLoader has workers. Each side first passes over
the data once to warm up its processes; then the sides alternate, so that noise of the machine affects both. A
pass is timed from its first request to its last micro-batch. Ray adds a scheduler process and keeps
micro-batches in shared memory; the DataLoader sends tensors through shared memory as well.

``--parts`` measures one process without Ray instead: the share of parsing and encoding, which training
repeats after the scan, in the time to read a sample, and the bytes that storing the token ids would take.

Cases: ``photos`` are JPEGs of 640 x 480 for the 8B model (5 views of 384 pixels), ``digits`` is the built-in
data set, ``text`` has conversations without images.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:1] = [str(ROOT), str(ROOT / "platform")]

import numpy as np  # noqa: E402 - the path comes first
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from torch.utils.data import DataLoader, Dataset  # noqa: E402

from data.digits.preparation import prepare  # noqa: E402
from data.manifest.encoding import Encoder  # noqa: E402
from data.manifest.manifest import open_manifest  # noqa: E402
from data.pipeline.microbatches import to_batch  # noqa: E402
from data.pipeline.reading import SampleReader, shapes_of  # noqa: E402
from data.pipeline.streams import SampleStream, rank_dataset  # noqa: E402
from data.pipeline.train_data import micro_batches, quarantine_of  # noqa: E402
from data.records.parsing import parse  # noqa: E402
from data.sources.annotations import read_record  # noqa: E402
from lladav.cluster import connect  # noqa: E402
from lladav.config.loader import load  # noqa: E402
from lladav.config.schema import ClusterConfig, Config  # noqa: E402
from tests.bench.reporting import report, table  # noqa: E402

MICRO_BATCH = 8
PHOTOS = 100
PARTS_SAMPLES = 100
AGAINST = "torch DataLoader, same functions and number of processes; worst of the cases"
PARTS_AGAINST = "the whole time to read a sample in one process; largest share of the cases"
STORED_BYTES_PER_TOKEN = 5
"""A token id as int32, and one byte for label, answer and turn."""


class StreamDataset(Dataset):
    """The micro-batches of a stream by number, as tensors, which torch can share between processes."""

    def __init__(self, stream: SampleStream, tile: int) -> None:
        self.stream, self.tile = stream, tile

    def __len__(self) -> int:
        return len(self.stream.rows)

    def __getitem__(self, number: int) -> list[list[torch.Tensor]]:
        if not 0 <= number < len(self):
            raise IndexError(number)
        batch = to_batch(self.stream.build(self.stream.rows[number]), self.tile)
        return [
            [torch.tensor(array) for array in (sample.text.input_ids, sample.text.labels)]
            + [torch.from_numpy(visual.views) for visual in sample.visuals]
            for sample in batch.samples
        ]


def photos(folder: Path) -> list[str]:
    """Write photo-like JPEGs with long answers to ``folder``; returns the settings that read them."""
    random = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    records = []
    for number in range(PHOTOS):
        coarse = Image.fromarray(random.integers(0, 255, (60, 80, 3), np.uint8))
        coarse.resize((640, 480), Image.Resampling.BICUBIC).save(folder / f"images/{number}.jpg", quality=90)
        turns = _turns("<image>\nWhat does the image show?", "Many colors in soft patches. " * 20)
        records.append({"id": str(number), "image": f"{number}.jpg", "conversations": turns})
    return _write_records(folder, records)


def text(folder: Path) -> list[str]:
    """Write conversations without images to ``folder``; returns the settings that read them."""
    (folder / "images").mkdir(parents=True)
    sentence = "The quick brown fox jumps over the lazy dog, and number {} looks on. "
    turns = [_turns(sentence.format(n) * 4, sentence.format(-n) * 12) * 2 for n in range(1000)]
    return _write_records(folder, [{"id": str(n), "conversations": each} for n, each in enumerate(turns)])


def _turns(question: str, answer: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def _write_records(folder: Path, records: list[dict[str, Any]]) -> list[str]:
    (folder / "records.json").write_text(json.dumps(records))
    source = "data.sources.mammoth_si"
    return [
        "model=llada_v_8b",
        "data=llava",
        f"data.root={folder}",
        f"{source}.annotations=records.json",
        f"{source}.media=images",
        f"model.tokenizer={ROOT / 'tests/golden/tokenizer'}",
    ]


def digits(folder: Path) -> list[str]:
    """Write a tenth of the built-in data set to ``folder``; returns the settings that read it."""
    prepare(folder, scale=0.1)
    return ["model=tiny", "data=digits", f"data.root={folder}", f"model.tokenizer={folder / 'tokenizer'}"]


CASES: dict[str, tuple[Callable[[Path], list[str]], int]] = {
    "photos": (photos, 1280),
    "digits": (digits, 8000),
    "text": (text, 4000),
}
"""The function that writes the data of a case, and the number of samples that a round reads."""


def settings(case: str, folder: Path, processes: int) -> Config:
    """Settings of a stage whose steps read as many samples as a round of the case."""
    make, samples = CASES[case]
    steps = f"train.max_steps={samples // (2 * MICRO_BATCH)}"
    batch = [f"stage.global_batch={2 * MICRO_BATCH}", f"train.micro_batch={MICRO_BATCH}", steps]
    free = ["cluster.cpus_per_worker=0", f"data.tasks={processes}"]
    return load(["stage=si", *make(folder), *batch, *free, "data.bad_sample_budget=0"])


class ByRay:
    """Iterates over a stream with Ray Data; yields the number of samples of each micro-batch."""

    def __init__(self, stream: SampleStream, config: Config, folder: Path) -> None:
        self.stream, self.config = stream, config
        self.quarantine = quarantine_of(open_manifest(config), folder, rank=0)

    def __iter__(self) -> Iterator[int]:
        shard = rank_dataset(self.stream, self.config).iterator()
        for batch in micro_batches(shard, self.config, 0, 1, 0, self.quarantine):
            yield len(batch.samples)


class ByTorch:
    """Iterates over a stream with a DataLoader that keeps its workers; yields as ``ByRay``."""

    def __init__(self, stream: SampleStream, config: Config, processes: int) -> None:
        self.loader = DataLoader(
            StreamDataset(stream, config.model.vision.image_size),
            batch_size=None,
            num_workers=processes,
            prefetch_factor=config.data.prefetch,
            persistent_workers=True,
            multiprocessing_context="spawn",
        )

    def __iter__(self) -> Iterator[int]:
        return (len(batch) for batch in self.loader)


def rate(way: Iterable[int]) -> float:
    """Samples per second of a whole pass."""
    begin, samples = time.perf_counter(), sum(way)
    return samples / (time.perf_counter() - begin)


def compare(case: str, folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Median rates of both sides, and the median over the rounds of their ratio."""
    config = settings(case, folder / case, options.processes)
    stream = SampleStream.of(config, open_manifest(config), rank=0, workers=1, first_step=0)
    ways = ByRay(stream, config, folder), ByTorch(stream, config, options.processes)
    _warm_up, *rounds = [[rate(way) for way in ways] for _ in range(options.rounds + 1)]
    ours, theirs = (statistics.median(side) for side in zip(*rounds, strict=True))
    return {"ray": ours, "torch": theirs, "ratio": statistics.median(a / b for a, b in rounds)}


def parts(case: str, folder: Path) -> dict[str, float]:
    """Milliseconds per sample: all of reading, parsing, encoding; and bytes to store its token ids."""
    manifest = open_manifest(settings(case, folder / case, processes=1))
    reader, encoder = SampleReader(manifest), Encoder(manifest.spec)
    rows = [manifest.row(index) for index in range(min(len(manifest), PARTS_SAMPLES))]
    sources = manifest.spec.sources
    raw = [
        read_record(source.annotations[row["file"]], source.format, row["position"], row["extent"])
        for row, source in ((row, sources[row["source"]]) for row in rows)
    ]
    read, _ = timed(lambda: [reader.read(index) for index in range(len(rows))])
    parse_ms, records = timed(lambda: [parse(each) for each in raw])
    encode_ms, encoded = timed(
        lambda: [
            encoder.encode(record, row["source"], row["suffix"], shapes_of(row))
            for record, row in zip(records, rows, strict=True)
        ]
    )
    tokens = statistics.mean(len(each.text.input_ids) for each in encoded)
    return {
        "read": read / len(rows),
        "parse": parse_ms / len(rows),
        "encode": encode_ms / len(rows),
        "share": (parse_ms + encode_ms) / read,
        "bytes": tokens * STORED_BYTES_PER_TOKEN,
    }


def timed(function: Callable[[], list[Any]]) -> tuple[float, list[Any]]:
    """Median milliseconds of three calls after a first one, and the result."""
    result, times = function(), []
    for _ in range(3):
        begin = time.perf_counter()
        function()
        times.append(1000 * (time.perf_counter() - begin))
    return statistics.median(times), result


def report_parts(cases: Sequence[str]) -> None:
    """Measure and print the parts of reading a sample."""
    with tempfile.TemporaryDirectory() as folder:
        results = {case: parts(case, Path(folder)) for case in cases}
    rows = [
        [case, *(f"{r[key]:.2f}" for key in ("read", "parse", "encode", "share")), f"{r['bytes']:.0f}"]
        for case, r in results.items()
    ]
    table(["case", "read, ms", "parse, ms", "encode, ms", "share", "bytes of token ids"], rows)
    report("parse_encode_share", max(r["share"] for r in results.values()), "", PARTS_AGAINST, cases=results)


def main() -> None:
    options = parse_options()
    if options.parts:
        report_parts(options.cases)
        return
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    cluster = ClusterConfig(name="bench", cpus_per_worker=0)
    with tempfile.TemporaryDirectory() as folder, connect(cluster):
        results = {case: compare(case, Path(folder), options) for case in options.cases}
    rows = [[c, f"{r['ray']:.1f}", f"{r['torch']:.1f}", f"{r['ratio']:.2f}"] for c, r in results.items()]
    table(["case", "ours, samples/s", "torch, samples/s", "ratio"], rows)
    details: dict[str, Any] = {"cases": results, "processes": options.processes}
    report("data_throughput", min(r["ratio"] for r in results.values()), "x", AGAINST, **details)


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=["photos", "digits"])
    parser.add_argument("--parts", action="store_true", help="measure the parts of reading a sample instead")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
