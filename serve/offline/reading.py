"""Reading tasks of a batch: some shards of the input become the requests of their unanswered rows.

Nothing here imports torch, so that a reading task starts sooner and needs less memory.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pyarrow as pa

from lladav.storage import location
from serve.offline.inputs.forms import FORMS, InputForm
from serve.offline.inputs.shards import InputShard
from serve.offline.row_requests import REQUEST, RequestBuilder
from serve.offline.settings import BatchSettings

SHARD = "shard"
"""Column of pickled ``UnansweredShard``."""
READ_ROWS = 64
"""Rows whose files are read together."""


@dataclass(frozen=True)
class UnansweredShard:
    """A shard of which some rows have no answer yet."""

    form: InputForm
    shard: InputShard
    done: np.ndarray
    """Which of its rows have an answer (bool array)."""


def read_requests(block: pa.Table, settings: BatchSettings, root: str) -> Iterator[pa.Table]:
    """The requests of the unanswered rows of some shards."""
    builder = RequestBuilder(settings, location(root))
    for pickled in block[SHARD].to_pylist():
        each: UnansweredShard = pickle.loads(pickled)
        rows = zip(each.shard.numbers, FORMS[each.form].read(each.shard), strict=True)
        numbered = (row for row, done in zip(rows, each.done, strict=True) if not done)
        while part := list(islice(numbered, READ_ROWS)):
            requests = [pickle.dumps(request) for request in builder.requests(part)]
            yield pa.table({REQUEST: pa.array(requests, pa.large_binary())})
