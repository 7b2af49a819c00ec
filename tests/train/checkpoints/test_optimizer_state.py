"""A rank that resumes reads only its own ranges of the files that the former ranks saved."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lladav.checkpoint.safetensors_writing import TensorSpec, TensorWriter
from lladav.storage import location, upload
from tests.buckets import S3Server
from train.checkpoints.optimizer_state import SavedState, shard_name, shard_range

ELEMENTS = 10
VALUES = torch.arange(ELEMENTS, dtype=torch.float32)


def save(folder: Path, workers: int) -> None:
    """Write the shards of one tensor as a group of workers does."""
    folder.mkdir()
    for rank in range(workers):
        part = VALUES[slice(*shard_range(ELEMENTS, rank, workers))]
        with TensorWriter(
            folder / shard_name(rank, workers), [TensorSpec("w", part.dtype, (len(part),))]
        ) as file:
            file.add(part)


@pytest.mark.parametrize(("saved", "workers", "files"), [(2, 2, {0}), (2, 1, {0, 1}), (4, 2, {0, 1})])
def test_a_rank_requests_only_the_files_of_its_own_shard(
    saved: int, workers: int, files: set[int], tmp_path: Path, bucket: str, s3_server: S3Server
) -> None:
    save(tmp_path / "engine", saved)
    upload(tmp_path / "engine", location(bucket) / "engine")
    before = len(s3_server.requests)
    first, last = shard_range(ELEMENTS, 0, workers)
    parts = list(SavedState(location(bucket) / "engine", saved).parts("w", ELEMENTS, first, last))
    assert torch.equal(torch.cat([part for _, part in parts]), VALUES[first:last])
    requested = {request.path for request in s3_server.requests[before:] if request.method == "GET"}
    ranks = {
        rank for rank in range(saved) if any(path.endswith(shard_name(rank, saved)) for path in requested)
    }
    assert ranks == files
