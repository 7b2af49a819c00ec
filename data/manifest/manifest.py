"""The manifest: a table with one row for each usable sample of a stage, built once and kept on disk.

Its folder is named by a hash of everything that determines the samples. A manifest is published atomically
and never changed, so an existing folder can be used as it is.
"""

from __future__ import annotations

import errno
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache, partial
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from upath import UPath

from data.manifest.encoding import unit_hash
from data.manifest.folder import manifests_folder, partial_folder
from data.manifest.progress import Report, ScanProgress
from data.manifest.quarantine import over_budget
from data.manifest.scan import SCHEMA, SPEC_FILE, Scan, read_spec, scan_chunk, write_spec
from data.manifest.spec import ManifestSpec
from data.sources.annotations import annotation_bytes, list_chunks
from data.sources.archives import index_name, write_index
from lladav.config.schema import Config
from lladav.errors import UserError
from lladav.inputs.chat import TEXT_VERSION
from lladav.storage import exists, local_path, location, write_durably
from lladav.storage.local_cache import local_copy

LOG = logging.getLogger(__name__)

TABLE, SUMMARY, QUARANTINE = "samples.arrow", "summary.json", "quarantine.jsonl"
"""Files of a manifest; the summary is written last and marks the manifest as complete."""

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)

Mapper = Callable[..., Iterable[Any]]
"""A function like ``map`` that may run the calls in other processes; results are in order."""


@dataclass(frozen=True)
class ManifestSummary:
    """Counts over all sources; ``cut`` counts shortened samples, ``reasons`` the rejects by reason."""

    records: int
    samples: int
    cut: int
    views: int
    reasons: dict[str, int] = field(default_factory=dict)


class Manifest:
    """The samples of a stage; rows are mapped into memory when they are read."""

    def __init__(self, folder: UPath) -> None:
        copy = local_copy(folder)
        self.folder = folder
        self.summary = ManifestSummary(**json.loads((copy / SUMMARY).read_text(encoding="utf-8")))
        self.spec, self.indexes = read_spec(copy)
        self.table = pa.ipc.open_file(pa.memory_map(str(copy / TABLE))).read_all()
        """The rows, with the columns of ``scan.SCHEMA``."""
        self._lengths, self._sources = self.table["length"].to_numpy(), self.table["source"].to_numpy()
        self._batches = [batch for batch in self.table.to_batches() if batch.num_rows]
        self._ends = np.cumsum([batch.num_rows for batch in self._batches], dtype=np.int64)

    def __len__(self) -> int:
        return self.summary.samples

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of each sample, visual tokens included (int32)."""
        return self._lengths

    @property
    def sources(self) -> np.ndarray:
        """Number of each sample's source, in the order of ``stage.sources`` (int16)."""
        return self._sources

    @property
    def held_out_hashes(self) -> np.ndarray:
        """A pseudo-random number in [0, 1) for each sample (float64), which depends on its id alone.

        Computed once per process: some seconds for a million samples.
        """
        return self._held_out_hashes

    @cached_property
    def _held_out_hashes(self) -> np.ndarray:
        ids = (name for chunk in self.table["id"].chunks for name in chunk.to_pylist())
        return np.fromiter((unit_hash(0, f"held out/{name}") for name in ids), np.float64, len(self))

    @property
    def quarantine(self) -> UPath:
        """The quarantine file of the scan."""
        return self.folder / QUARANTINE

    @property
    def mean_sample_bytes(self) -> float:
        """Mean number of bytes of a sample's pixels."""
        return self.summary.views / max(1, len(self)) * 3 * self.spec.geometry.tile**2

    def row(self, index: int) -> dict[str, Any]:
        """The columns of one sample."""
        batch = int(np.searchsorted(self._ends, index, side="right"))
        start = int(self._ends[batch - 1]) if batch else 0
        return self._batches[batch].slice(index - start, 1).to_pylist()[0]


@lru_cache(4)
def manifest_in(folder: str) -> Manifest:
    """The manifest in a folder, opened once per process."""
    return Manifest(location(folder))


def open_manifest(
    config: Config, cache: Path | None = None, mapper: Mapper = map, report: Report = LOG.debug
) -> Manifest:
    """The manifest of the configured stage, built now unless it exists in ``cache``.

    ``cache`` is ``manifests_folder`` by default; every process that reads samples needs access to it.
    ``report`` is called with a line about the progress of a long build every few seconds. Raises
    ``UserError`` if a source is missing or damaged as a whole, if more records are unusable than
    ``data.bad_sample_budget`` allows, and if no record is usable.
    """
    spec = ManifestSpec.of(config)
    folders = location(cache) if cache else manifests_folder(config)
    folder = folders / spec.key()
    if not exists(folder / SUMMARY):
        _log_outdated(folders, spec)
        _build(folder, spec, mapper, report)
    manifest = manifest_in(str(folder))
    summary = manifest.summary
    budget = config.data.bad_sample_budget
    if error := over_budget(summary.reasons, summary.records, budget, manifest.quarantine):
        raise UserError(error)
    if not len(manifest):
        names = ", ".join(config.stage.sources)
        raise UserError(f"stage.sources: no usable record in {names}; prepare the data again")
    return manifest


def existing_manifest(config: Config) -> Manifest | None:
    """The manifest of the configured stage if it is built; raises ``UserError`` if a source is missing."""
    folder = manifests_folder(config) / ManifestSpec.of(config).key()
    return manifest_in(str(folder)) if exists(folder / SUMMARY) else None


def _log_outdated(cache: UPath, spec: ManifestSpec) -> None:
    """Log one line if the cache has a manifest of the same settings but of another ``TEXT_VERSION``."""
    now = json.loads(json.dumps(spec.to_json()))
    local = local_path(cache)
    for file in sorted(local.glob(f"*/{SPEC_FILE}") if local else ()):
        content = json.loads(file.read_text(encoding="utf-8"))
        version, before = content.get("text_version", 1), content["preparation"]
        if version != TEXT_VERSION and _agree(before, now):
            LOG.warning(
                "%s: built with text processing version %d; version %d gives other token ids, so a new "
                "manifest is built",
                file.parent,
                version,
                TEXT_VERSION,
            )
            return


def _agree(before: Any, now: Any) -> bool:
    """Whether two trees of settings have equal values at all keys that both have."""
    if isinstance(before, dict) and isinstance(now, dict):
        return all(_agree(before[key], now[key]) for key in before.keys() & now.keys())
    return before == now


def _build(folder: UPath, spec: ManifestSpec, mapper: Mapper, report: Report) -> None:
    try:
        with partial_folder(folder) as unfinished:
            write_spec(unfinished.path, spec, _indexes(folder.parent, spec, mapper, report))
            unfinished.share()
            scans = mapper(scan_chunk, repeat(str(unfinished.shared)), list_chunks(spec.sources))
            summary = _write(unfinished.path, scans, ScanProgress(report, annotation_bytes(spec.sources)))
            unfinished.publish(folder, SUMMARY, json.dumps(asdict(summary), indent=1))
    except OSError as error:
        if error.errno in NO_SPACE:
            raise UserError(f"{folder.parent}: no space left for the manifest; free some") from None
        raise


def _indexes(cache: UPath, spec: ManifestSpec, mapper: Mapper, report: Report) -> dict[str, str]:
    """The index file of each source that has archives, written if missing; stages share index files."""
    indexes = {}
    for source in spec.sources:
        if source.archives:
            file = cache / index_name(source.archives)
            if not exists(file):
                report(f"manifest {len(source.archives)} archives of {source.name} are indexed")
                write_durably(file, partial(write_index, source.archives, mapper=mapper))
            indexes[source.name] = str(file)
    return indexes


def _write(folder: Path, scans: Iterable[Scan], progress: ScanProgress) -> ManifestSummary:
    """Write the rows and rejects of each scan as it arrives; returns the counts."""
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
            progress.add(len(scan.table) + len(scan.rejects), len(scan.rejects), scan.read_bytes)
    progress.finish()
    samples, rejects = counts["samples"], sum(reasons.values())
    return ManifestSummary(samples + rejects, samples, counts["cut"], counts["views"], dict(reasons))


def _counts(scan: Scan) -> dict[str, int]:
    table = scan.table
    views = sum(int(np.sum(chunk.values.to_numpy())) for chunk in table["views"].chunks)
    return {"samples": len(table), "cut": sum(table["was_cut"].to_pylist()), "views": views}
