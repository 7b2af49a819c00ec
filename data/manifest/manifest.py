"""The manifest: one row for each usable sample of a stage, made once and kept on disk.

It is keyed by everything that its samples follow from, so a folder that exists is right as it is: it appears
whole or not at all, and is never changed.
"""

from __future__ import annotations

import errno
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from upath import UPath

from data.manifest.folder import folder_of, partial_folder, write_whole
from data.manifest.quarantine import over_budget
from data.manifest.scan import ORDERS, SCHEMA, Scan, read_orders, scan_chunk, write_orders
from data.manifest.spec import Preparation
from data.sources.annotations import chunks
from data.sources.archives import index_name, write_index
from lladav.config.schema import Config
from lladav.errors import UserError
from lladav.inputs.chat import TEXT_VERSION
from lladav.storage import exists, local_path, location
from lladav.storage.local_cache import local_copy

LOG = logging.getLogger(__name__)

TABLE, SUMMARY, QUARANTINE = "samples.arrow", "summary.json", "quarantine.jsonl"

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)

Mapper = Callable[..., Iterable[Any]]
"""Like ``map``: applies a function to elements of iterables, in order; may work ahead in other processes."""


@dataclass(frozen=True)
class ManifestSummary:
    """Counts over all sources: records, usable samples, those cut at the end, views, rejects by reason."""

    records: int
    samples: int
    cut: int
    views: int
    reasons: dict[str, int] = field(default_factory=dict)


class Manifest:
    """The samples of a stage. Rows are mapped from disk, so that opening costs nothing."""

    def __init__(self, folder: UPath) -> None:
        copy = local_copy(folder)
        self.folder = folder
        self.summary = ManifestSummary(**json.loads((copy / SUMMARY).read_text(encoding="utf-8")))
        self.preparation, self.indexes = read_orders(copy)
        table = pa.ipc.open_file(pa.memory_map(str(copy / TABLE))).read_all()
        self._lengths = table["length"].to_numpy()
        self._batches = [batch for batch in table.to_batches() if batch.num_rows]
        self._ends = np.cumsum([batch.num_rows for batch in self._batches], dtype=np.int64)

    def __len__(self) -> int:
        return self.summary.samples

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each sample, visual ones included (int32)."""
        return self._lengths

    @property
    def quarantine(self) -> UPath:
        """The file of the records that were left out."""
        return self.folder / QUARANTINE

    @property
    def mean_sample_bytes(self) -> float:
        """Bytes of pixels that a sample has on average."""
        return self.summary.views / max(1, len(self)) * 3 * self.preparation.geometry.tile**2

    def row(self, index: int) -> dict[str, Any]:
        """The columns of one sample."""
        batch = int(np.searchsorted(self._ends, index, side="right"))
        start = int(self._ends[batch - 1]) if batch else 0
        return self._batches[batch].slice(index - start, 1).to_pylist()[0]


@lru_cache(4)
def manifest_in(folder: str) -> Manifest:
    """The manifest in a folder, opened once in each process."""
    return Manifest(location(folder))


def open_manifest(config: Config, cache: Path | None = None, mapper: Mapper = map) -> Manifest:
    """The manifest of the configured stage, made now unless it is in ``cache``.

    ``cache`` is by default that of ``manifest_folder``; every process that reads samples must see it. Raises
    ``UserError`` where a source is missing or damaged as a whole, where more records than
    ``data.bad_sample_budget`` allows cannot be used, and where none can.
    """
    preparation = Preparation.of(config)
    folders = location(cache) if cache else folder_of(config)
    folder = folders / preparation.key()
    if not exists(folder / SUMMARY):
        _tell_of_outdated(folders, preparation)
        _make(folder, preparation, mapper)
    manifest = manifest_in(str(folder))
    summary = manifest.summary
    budget = config.data.bad_sample_budget
    if complaint := over_budget(summary.reasons, summary.records, budget, manifest.quarantine):
        raise UserError(complaint)
    if not len(manifest):
        names = ", ".join(config.stage.sources)
        raise UserError(f"stage.sources: no usable record in {names}; prepare the data again")
    return manifest


def _tell_of_outdated(cache: UPath, preparation: Preparation) -> None:
    """Log one line where the cache has a manifest of these settings that another text processing made."""
    now = json.loads(json.dumps(preparation.to_json()))
    local = local_path(cache)
    for file in sorted(local.glob(f"*/{ORDERS}") if local else ()):
        orders = json.loads(file.read_text(encoding="utf-8"))
        version, was = orders.get("text_version", 1), orders["preparation"]
        if version != TEXT_VERSION and _agree(was, now):
            LOG.warning(
                "%s: made with text processing %d; with %d, which this version has, records give other token "
                "ids, so a new manifest is made",
                file.parent,
                version,
                TEXT_VERSION,
            )
            return


def _agree(was: Any, now: Any) -> bool:
    """Whether two trees of settings have the same values at the keys that both have."""
    if isinstance(was, dict) and isinstance(now, dict):
        return all(_agree(was[key], now[key]) for key in was.keys() & now.keys())
    return was == now


def _make(folder: UPath, preparation: Preparation, mapper: Mapper) -> None:
    try:
        with partial_folder(folder) as making:
            write_orders(making.path, preparation, _indexes(folder.parent, preparation, mapper))
            making.share()
            scans = mapper(scan_chunk, repeat(str(making.shared)), chunks(preparation.sources))
            summary = _write(making.path, scans)
            making.publish(folder, SUMMARY, json.dumps(asdict(summary), indent=1))
    except OSError as error:
        if error.errno in NO_SPACE:
            raise UserError(f"{folder.parent}: no space left for the manifest; make some") from None
        raise


def _indexes(cache: UPath, preparation: Preparation, mapper: Mapper) -> dict[str, str]:
    """The index file of each source that has archives; made where it is not there, shared between stages."""
    indexes = {}
    for source in preparation.sources:
        if source.archives:
            file = cache / index_name(source.archives)
            if not exists(file):
                write_whole(file, partial(write_index, source.archives, mapper=mapper))
            indexes[source.name] = str(file)
    return indexes


def _write(folder: Path, scans: Iterable[Scan]) -> ManifestSummary:
    """Write rows and rejects as they come."""
    counts, reasons = Counter(), Counter()
    with (
        pa.OSFile(str(folder / TABLE), "wb") as sink,
        pa.ipc.new_file(sink, SCHEMA) as writer,
        (folder / QUARANTINE).open("w", encoding="utf-8") as quarantine,
    ):
        for scan in scans:
            writer.write_table(scan.table)
            quarantine.writelines(reject.to_line() for reject in scan.rejects)
            reasons.update(reject.reason for reject in scan.rejects)
            counts.update(_counts(scan))
    samples, rejects = counts["samples"], sum(reasons.values())
    return ManifestSummary(samples + rejects, samples, counts["cut"], counts["views"], dict(reasons))


def _counts(scan: Scan) -> dict[str, int]:
    table = scan.table
    views = sum(int(np.sum(chunk.values.to_numpy())) for chunk in table["views"].chunks)
    return {"samples": len(table), "cut": sum(table["was_cut"].to_pylist()), "views": views}
