"""A micro-batch as one table row of flat arrays, which processes share through Ray's object store uncopied.

The pixels of all views are one binary value; the arrays that ``to_batch`` returns point into the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from data.manifest.quarantine import Reject
from data.pipeline.plan import MicroBatchPlan
from data.pipeline.reading import SampleReader
from data.records.record import BadSample
from lladav.inputs.samples import IGNORED, Encoded, Sample, Visual, VisualKind, VisualShape

SCHEMA = pa.schema(
    {
        "step": pa.int64(),
        "epoch": pa.int32(),
        "micro_step": pa.int32(),
        "rank": pa.int32(),
        "global_samples": pa.int32(),
        "positions": pa.list_(pa.int32()),
        "ids": pa.list_(pa.string()),
        "text_lengths": pa.list_(pa.int32()),
        "input_ids": pa.list_(pa.int32()),
        "labels": pa.list_(pa.int32()),
        "turns": pa.list_(pa.int32()),
        "answer": pa.list_(pa.uint8()),
        "visuals": pa.list_(pa.int32()),
        "kind": pa.list_(pa.int32()),
        "width": pa.list_(pa.int32()),
        "height": pa.list_(pa.int32()),
        "views": pa.list_(pa.int32()),
        "pixels": pa.large_binary(),
        "rejected": pa.list_(pa.string()),
    }
)
"""``positions``, ``ids``, ``text_lengths`` and ``visuals`` (the number of images and videos) have an element
per sample, ``kind`` to ``views`` one per image or video."""

NUMBERS = ("step", "epoch", "micro_step", "rank", "global_samples")
SHAPE = tuple(VisualShape.__annotations__)


@dataclass(frozen=True)
class MicroBatch:
    """The decoded samples of one rank in one accumulation step (``micro_step``) of an optimizer step.

    ``positions`` are the samples' positions in the global batch, which has ``global_samples`` samples in the
    plan. The samples in ``rejected`` could not be read. If no sample is left, the micro-batch has one blank
    sample without labels instead: every rank must run the model equally often.
    """

    step: int
    epoch: int
    micro_step: int
    rank: int
    global_samples: int
    positions: np.ndarray
    samples: list[Sample]
    rejected: list[Reject]
    is_blank: bool = False


def blank_sample() -> Sample:
    """A sample of one token without a label."""
    zero = np.zeros(1, np.int32)
    return Sample("blank", Encoded(zero, np.full(1, IGNORED, np.int32), zero, np.zeros(1, bool)))


def build_row(reader: SampleReader, plan: MicroBatchPlan) -> pa.Table:
    """Read the samples of a planned micro-batch; those that cannot be read become rejects in the row."""
    samples, positions, rejected = [], [], []
    for row, position in zip(plan.rows.tolist(), plan.positions.tolist(), strict=True):
        try:
            samples.append(reader.read(row))
            positions.append(position)
        except BadSample as bad:
            rejected.append(reader.reject(row, bad))
    return to_row(plan, positions, samples, rejected)


def to_row(
    plan: MicroBatchPlan, positions: Sequence[int], samples: Sequence[Sample], rejected: Sequence[Reject]
) -> pa.Table:
    """A table of one row; ``positions`` has an element for each of ``samples``."""
    visuals = [visual for sample in samples for visual in sample.visuals]
    columns = {
        **{name: getattr(plan, name) for name in NUMBERS},
        "positions": np.array(positions, np.int32),
        "ids": [sample.id for sample in samples],
        "text_lengths": [len(sample.text.input_ids) for sample in samples],
        **_flat_texts(samples),
        "visuals": [len(sample.visuals) for sample in samples],
        **{name: [int(getattr(visual.shape, name)) for visual in visuals] for name in SHAPE},
        "rejected": [reject.to_line() for reject in rejected],
    }
    pixels = _concatenated([visual.views.reshape(-1) for visual in visuals], np.uint8)
    arrays = {name: pa.array([value], SCHEMA.field(name).type) for name, value in columns.items()}
    return pa.table({**arrays, "pixels": _binary(pixels)}, schema=SCHEMA)


def to_batch(row: pa.Table, tile: int) -> MicroBatch:
    """The micro-batch of a table of one row; ``tile`` is the side of a view in pixels. Nothing is copied."""
    text = {name: _numpy(row, name) for name in ("input_ids", "labels", "turns", "answer")}
    text["answer"] = text["answer"].view(bool)
    visuals = _visuals(row, tile)
    samples, start, first = [], 0, 0
    columns = zip(_list(row, "ids"), _list(row, "text_lengths"), _list(row, "visuals"), strict=True)
    for name, length, count in columns:
        part = Encoded(**{key: values[start : start + length] for key, values in text.items()})
        samples.append(Sample(name, part, visuals[first : first + count]))
        start, first = start + length, first + count
    return _batch(row, samples)


def _batch(row: pa.Table, samples: list[Sample]) -> MicroBatch:
    numbers = {name: row[name][0].as_py() for name in NUMBERS}
    rejected = [Reject.from_line(line) for line in _list(row, "rejected")]
    if samples:
        return MicroBatch(**numbers, positions=_numpy(row, "positions"), samples=samples, rejected=rejected)
    blank = np.zeros(1, np.int32)
    return MicroBatch(**numbers, positions=blank, samples=[blank_sample()], rejected=rejected, is_blank=True)


def _visuals(row: pa.Table, tile: int) -> list[Visual]:
    pixels = _pixels(row).reshape(-1, 3, tile, tile)
    visuals, start = [], 0
    for kind, *rest in zip(*(_list(row, name) for name in SHAPE), strict=True):
        shape = VisualShape(VisualKind(kind), *rest)
        visuals.append(Visual(shape, pixels[start : start + shape.views]))
        start += shape.views
    return visuals


def _flat_texts(samples: Sequence[Sample]) -> dict[str, np.ndarray]:
    texts = [sample.text for sample in samples]
    flat = {
        name: _concatenated([getattr(t, name) for t in texts], np.int32)
        for name in ("input_ids", "labels", "turns")
    }
    return flat | {"answer": _concatenated([text.answer for text in texts], bool).view(np.uint8)}


def _concatenated(arrays: Sequence[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.zeros(0, dtype)


def _binary(values: np.ndarray) -> pa.LargeBinaryArray:
    """The bytes of an array as one value, without a copy."""
    offsets = pa.py_buffer(np.array([0, values.nbytes], np.int64))
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, pa.py_buffer(values)])


def _pixels(row: pa.Table) -> np.ndarray:
    """The bytes of the row's pixels without a copy, which Arrow's scalars would make."""
    array = row["pixels"].chunk(0)
    _, offsets, values = array.buffers()
    start, end = np.frombuffer(offsets, np.int64)[array.offset : array.offset + 2]
    return np.frombuffer(values or b"", np.uint8)[start:end]


def _numpy(row: pa.Table, name: str) -> np.ndarray:
    return row[name][0].values.to_numpy()


def _list(row: pa.Table, name: str) -> list[Any]:
    return row[name][0].as_py()
