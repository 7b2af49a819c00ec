"""A micro-batch as one row of a table: flat arrays and offsets, which travel between processes uncopied.

A row has no ragged tensors. Pixels of all views lie in one binary value; ``to_batch`` gives views into it.
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
from data.records.record import BadSample, contained
from lladav.inputs.types import IGNORED, Encoded, Sample, Visual, VisualKind, VisualShape

SCHEMA = pa.schema(
    {
        "step": pa.int64(),
        "epoch": pa.int32(),
        "slot": pa.int32(),
        "rank": pa.int32(),
        "global_samples": pa.int32(),
        "places": pa.list_(pa.int32()),
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
"""``text_lengths`` and ``visuals`` have an element for each sample, ``kind`` to ``views`` for each visual."""

NUMBERS = ("step", "epoch", "slot", "rank", "global_samples")
SHAPE = tuple(VisualShape.__annotations__)


@dataclass(frozen=True)
class MicroBatch:
    """The samples of one rank in one accumulation slot of a step, decoded.

    ``indices`` are the samples' positions in the global batch, which has ``global_samples`` by plan. Those in
    ``rejected`` were planned and could not be read. A micro-batch without any sample left has a blank one
    instead, without labels, so that every rank runs the model as often as the others: it counts for nothing.
    """

    step: int
    epoch: int
    slot: int
    rank: int
    global_samples: int
    indices: np.ndarray
    samples: list[Sample]
    rejected: list[Reject]
    is_blank: bool = False


def blank_sample() -> Sample:
    """One token without a label."""
    zero = np.zeros(1, np.int32)
    return Sample("blank", Encoded(zero, np.full(1, IGNORED, np.int32), zero, np.zeros(1, bool)))


def build_row(reader: SampleReader, plan: MicroBatchPlan) -> pa.Table:
    """Read the samples of a planned micro-batch; damaged ones travel along as rejects."""
    samples, places, rejected = [], [], []
    for row, place in zip(plan.rows.tolist(), plan.places.tolist(), strict=True):
        try:
            with contained():
                samples.append(reader.read(row))
            places.append(place)
        except BadSample as bad:
            rejected.append(reader.reject(row, bad))
    return to_row(plan, places, samples, rejected)


def to_row(
    plan: MicroBatchPlan, places: Sequence[int], samples: Sequence[Sample], rejected: Sequence[Reject]
) -> pa.Table:
    """A table of one row; ``places`` are those of the samples that could be read."""
    visuals = [visual for sample in samples for visual in sample.visuals]
    columns = {
        **{name: getattr(plan, name) for name in NUMBERS},
        "places": np.array(places, np.int32),
        "ids": [sample.id for sample in samples],
        "text_lengths": [len(sample.text.input_ids) for sample in samples],
        **_flat_texts(samples),
        "visuals": [len(sample.visuals) for sample in samples],
        **{name: [int(getattr(visual.shape, name)) for visual in visuals] for name in SHAPE},
        "rejected": [reject.to_line() for reject in rejected],
    }
    pixels = _joined([visual.views.reshape(-1) for visual in visuals], np.uint8)
    arrays = {name: pa.array([value], SCHEMA.field(name).type) for name, value in columns.items()}
    return pa.table({**arrays, "pixels": _binary(pixels)}, schema=SCHEMA)


def to_batch(row: pa.Table, tile: int) -> MicroBatch:
    """The micro-batch of a table of one row; ``tile`` the side of a view. Arrays are views into the table."""
    text = {name: _numpy(row, name) for name in ("input_ids", "labels", "turns", "answer")}
    text["answer"] = text["answer"].view(bool)
    visuals = _visuals(row, tile)
    samples, start, first = [], 0, 0
    counts = zip(_list(row, "ids"), _list(row, "text_lengths"), _list(row, "visuals"), strict=True)
    for name, length, items in counts:
        part = Encoded(**{key: values[start : start + length] for key, values in text.items()})
        samples.append(Sample(name, part, visuals[first : first + items]))
        start, first = start + length, first + items
    return _batch(row, samples)


def _batch(row: pa.Table, samples: list[Sample]) -> MicroBatch:
    numbers = {name: row[name][0].as_py() for name in NUMBERS}
    rejected = [Reject.from_line(line) for line in _list(row, "rejected")]
    if samples:
        return MicroBatch(**numbers, indices=_numpy(row, "places"), samples=samples, rejected=rejected)
    blank = np.zeros(1, np.int32)
    return MicroBatch(**numbers, indices=blank, samples=[blank_sample()], rejected=rejected, is_blank=True)


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
        name: _joined([getattr(t, name) for t in texts], np.int32)
        for name in ("input_ids", "labels", "turns")
    }
    return flat | {"answer": _joined([text.answer for text in texts], bool).view(np.uint8)}


def _joined(arrays: Sequence[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.zeros(0, dtype)


def _binary(values: np.ndarray) -> pa.LargeBinaryArray:
    """The bytes of an array as one value, not copied."""
    offsets = pa.py_buffer(np.array([0, values.nbytes], np.int64))
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, pa.py_buffer(values)])


def _pixels(row: pa.Table) -> np.ndarray:
    """The bytes of the row's pixels where they lie; Arrow's scalars would copy them."""
    array = row["pixels"].chunk(0)
    _, offsets, values = array.buffers()
    start, end = np.frombuffer(offsets, np.int64)[array.offset : array.offset + 2]
    return np.frombuffer(values or b"", np.uint8)[start:end]


def _numpy(row: pa.Table, name: str) -> np.ndarray:
    return row[name][0].values.to_numpy()


def _list(row: pa.Table, name: str) -> list[Any]:
    return row[name][0].as_py()
