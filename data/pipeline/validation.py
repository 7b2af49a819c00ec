"""The samples of a validation: the same ones each time, in the same micro-batches of each rank.

They are read without Ray: a validation is short, and each rank reads its part while training waits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from data.manifest.manifest import Manifest, manifest_in
from data.manifest.quarantine import Reject
from data.pipeline.plan import BatchLayout, divide_batch, selected_rows
from data.pipeline.reading import open_reader
from data.pipeline.selection import Selection
from data.records.record import BadSample
from lladav.config.schema import Config
from lladav.errors import UserError
from lladav.inputs.samples import Sample


def validation_settings(config: Config) -> Config:
    """The settings whose manifest has the samples of a validation; with ``data.validation.share`` that is the
    manifest of the stage."""
    sources = config.data.validation.sources
    if not sources:
        return config
    validation = replace(config.data.validation, sources=[])
    return replace(
        config,
        stage=replace(config.stage, sources=sources, suffixes={}),
        data=replace(config.data, validation=validation, fraction=1.0),
    )


@dataclass(frozen=True)
class HeldOutBatch:
    """A micro-batch of a validation. ``positions`` are the samples' numbers in the validation; the samples in
    ``rejected`` could not be read."""

    positions: list[int]
    samples: list[Sample]
    rejected: list[Reject]


@dataclass(frozen=True)
class ValidationSet:
    """The samples of a validation: ``rows`` of the manifest in ``folder``, in an order without meaning."""

    folder: str
    rows: np.ndarray

    @classmethod
    def of(cls, manifest: Manifest, config: Config) -> ValidationSet:
        """The set of a run, whose ``manifest`` has ``validation_settings``; raises ``UserError`` if it is
        empty."""
        held_out, hashes = config.data.validation, manifest.held_out_hashes
        if held_out.share:
            rows = np.flatnonzero(hashes < held_out.share)
        else:
            selected = selected_rows(manifest, Selection.of(validation_settings(config)))
            rows = np.arange(len(manifest)) if selected is None else np.unique(selected % len(manifest))
        if not len(rows):
            raise UserError(f"data.validation: no sample of {len(manifest)} is held out; raise its share")
        return cls(str(manifest.folder), rows[np.argsort(hashes[rows])][: held_out.samples])

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, micro_batch: int, rank: int, workers: int) -> Iterator[HeldOutBatch]:
        """The micro-batches of a rank, as many for every rank. Some have no sample."""
        layout = BatchLayout(math.ceil(len(self) / (micro_batch * workers)), workers)
        lengths = manifest_in(self.folder).lengths[self.rows]
        for ranks in divide_batch(lengths, layout):
            yield self.read(ranks[rank].tolist())

    def read(self, positions: Sequence[int]) -> HeldOutBatch:
        """Read the samples with these numbers."""
        reader = open_reader(self.folder)
        batch = HeldOutBatch([], [], [])
        for position in positions:
            row = int(self.rows[position])
            try:
                batch.samples.append(reader.read(row))
                batch.positions.append(position)
            except BadSample as bad:
                batch.rejected.append(reader.reject(row, bad))
        return batch
