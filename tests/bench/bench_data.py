"""The data pipeline against a plain torch DataLoader: samples a second, same work, same number of processes.

    python tests/bench/bench_data.py
    python tests/bench/bench_data.py --cases photos --rounds 5

Both read, decode, tile and tokenise by the same functions and hand over the same micro-batches in the same
order. Ray Data has as many tasks at a time as the DataLoader has workers. Each way passes once over the data
to warm its processes, then they take turns, so that noise of the machine meets both; a pass is timed from its
first request to its last micro-batch. What Ray adds is a process that schedules, and micro-batches in shared
memory; the DataLoader moves tensors through shared memory as well.

Cases: ``photos`` are JPEGs of 640 x 480 cut for the 8B model (5 views of 384 pixels), ``digits`` the embedded
set.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:1] = [str(ROOT), str(ROOT / "platform")]

import numpy as np  # noqa: E402 - the path comes first
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from torch.utils.data import DataLoader, Dataset  # noqa: E402

from data.digits.preparation import prepare  # noqa: E402
from data.manifest.manifest import open_manifest  # noqa: E402
from data.pipeline.microbatches import to_batch  # noqa: E402
from data.pipeline.streams import SampleStream, rank_dataset  # noqa: E402
from data.pipeline.train_data import micro_batches, quarantine_of  # noqa: E402
from lladav.cluster import connect  # noqa: E402
from lladav.config.loader import load  # noqa: E402
from lladav.config.schema import ClusterConfig, Config  # noqa: E402
from tests.bench.reporting import report, table  # noqa: E402

MICRO_BATCH = 8
PHOTOS = 100
AGAINST = "torch DataLoader, same functions and number of processes; worst of the cases"


class RowsOfStream(Dataset):
    """Micro-batches by number, as tensors: what torch can share between processes."""

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
    """Settings for a set of photo-like JPEGs and long answers, written to ``folder``."""
    random = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    records = []
    for number in range(PHOTOS):
        coarse = Image.fromarray(random.integers(0, 255, (60, 80, 3), np.uint8))
        coarse.resize((640, 480), Image.Resampling.BICUBIC).save(folder / f"images/{number}.jpg", quality=90)
        said = [("human", "<image>\nWhat is to be seen?"), ("gpt", "Many colours in soft patches. " * 20)]
        turns = [{"from": who, "value": what} for who, what in said]
        records.append({"id": str(number), "image": f"{number}.jpg", "conversations": turns})
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
    """Settings for a tenth of the embedded set, written to ``folder``."""
    prepare(folder, scale=0.1)
    return ["model=tiny", "data=digits", f"data.root={folder}", f"model.tokenizer={folder / 'tokenizer'}"]


CASES: dict[str, tuple[Callable[[Path], list[str]], int]] = {
    "photos": (photos, 320),
    "digits": (digits, 4000),
}
"""How a case's data is made, and how many samples a round reads."""


def settings(case: str, folder: Path, processes: int) -> Config:
    """Settings of a stage that passes over the case's samples as often as a round needs."""
    make, samples = CASES[case]
    steps = f"train.max_steps={samples // (2 * MICRO_BATCH)}"
    batch = [f"stage.global_batch={2 * MICRO_BATCH}", f"train.micro_batch={MICRO_BATCH}", steps]
    free = ["cluster.cpus_per_worker=0", f"data.tasks={processes}"]
    return load(["stage=si", *make(folder), *batch, *free, "data.bad_sample_budget=0"])


class ByRay:
    """Passes over a stream with Ray Data."""

    def __init__(self, stream: SampleStream, config: Config, folder: Path) -> None:
        self.stream, self.config = stream, config
        self.quarantine = quarantine_of(open_manifest(config), folder, rank=0)

    def __iter__(self) -> Iterator[int]:
        """Samples of one micro-batch after the other."""
        shard = rank_dataset(self.stream, self.config).iterator()
        for batch in micro_batches(shard, self.config, 0, 1, 0, self.quarantine):
            yield len(batch.samples)


class ByTorch:
    """Passes over a stream with a DataLoader that keeps its workers."""

    def __init__(self, stream: SampleStream, config: Config, processes: int) -> None:
        self.loader = DataLoader(
            RowsOfStream(stream, config.model.vision.image_size),
            batch_size=None,
            num_workers=processes,
            prefetch_factor=config.data.prefetch,
            persistent_workers=True,
            multiprocessing_context="spawn",
        )

    def __iter__(self) -> Iterator[int]:
        """Samples of one micro-batch after the other."""
        return (len(batch) for batch in self.loader)


def rate(way: Iterable[int]) -> float:
    """Samples a second of a whole pass."""
    begin, samples = time.perf_counter(), sum(way)
    return samples / (time.perf_counter() - begin)


def compare(case: str, folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Median rates of both ways, and the median of their ratios round by round."""
    config = settings(case, folder / case, options.processes)
    stream = SampleStream.of(config, open_manifest(config), rank=0, workers=1, first_step=0)
    ways = ByRay(stream, config, folder), ByTorch(stream, config, options.processes)
    _warm_up, *rounds = [[rate(way) for way in ways] for _ in range(options.rounds + 1)]
    ours, theirs = (statistics.median(side) for side in zip(*rounds, strict=True))
    return {"ray": ours, "torch": theirs, "ratio": statistics.median(a / b for a, b in rounds)}


def main() -> None:
    options = parse_options()
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
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
