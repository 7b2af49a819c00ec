"""What an engine replica makes of its settings: graphs on a GPU, memory, and a checkpoint that it refuses."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lladav.config.schema import Prediction
from lladav.decoding.cuda_graphs import GraphSize
from lladav.errors import UserError
from serve.engine.replica import EngineReplica, engine_of, graph_sizes, open_replica_model
from serve.settings import ServeSettings, load
from tests.serve.apis import settings_of


def gpu(**given: Any) -> ServeSettings:
    """The settings for a GPU with some of one's own, dots as double underscores."""
    dotted = {name.replace("__", "."): value for name, value in given.items()}
    return load({"config": "gpu", "model": "folder", "keys_file": "keys", **dotted})


def test_graphs_are_on_by_default_on_a_gpu_and_off_elsewhere() -> None:
    assert graph_sizes(gpu())
    assert graph_sizes(load({"model": "folder", "engine.gpus": 1}))
    assert graph_sizes(load({"model": "folder"})) == []
    assert graph_sizes(gpu(engine__cuda_graphs=False)) == []


def test_sizes_follow_rows_blocks_and_the_longest_answer() -> None:
    sizes = graph_sizes(gpu())
    assert len(sizes) == 34
    assert sizes[-1] == GraphSize(1024, 33)
    assert graph_sizes(gpu(), Prediction.next_token)[-1] == GraphSize(128, 129)
    alone = graph_sizes(gpu(engine__max_rows=1, limits__max_tokens=128, limits__default_max_tokens=64))
    assert alone[-1] == GraphSize(256, 3)


def test_graphs_without_a_gpu_are_refused() -> None:
    with pytest.raises(UserError, match="engine: cuda_graphs is on and gpus is 0; set gpus, or leave"):
        gpu(engine__gpus=0)
    assert graph_sizes(gpu(engine__gpus=0, engine__cuda_graphs=False)) == []


def test_an_engine_keeps_to_kv_bytes(model_folder: Path) -> None:
    settings = settings_of(model_folder, engine__kv_bytes=2**23)
    engine = engine_of(open_replica_model(settings), settings)
    tensors = engine.kv_cache.keys.nbytes + engine.kv_cache.values.nbytes
    assert 0.9 * 2**23 < tensors + engine.admission.prompt_bytes <= 2**23


def test_what_a_replica_refuses_is_a_line_in_its_log(
    model_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(model_folder, tmp_path / "damaged")
    file = tmp_path / "damaged" / "model.safetensors"
    tensors = load_file(file)
    tensors["lm_head.weight"][3, 4] = torch.inf
    save_file(tensors, file, {"format": "pt"})
    with caplog.at_level(logging.ERROR, "ray.serve.engine"), pytest.raises(UserError):
        EngineReplica(settings_of(tmp_path / "damaged"))
    (record,) = caplog.records
    expected = f"the replica cannot start: {file}: lm_head.weight has values that are not finite; copy"
    assert record.getMessage().startswith(expected)
