"""The shipped tiny model: complete, small, and the model of ``conf/model/tiny.yaml``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lladav.checkpoint import check_model, model_config_of, shipped, shipped_model
from lladav.config.loader import load as load_config
from lladav.errors import UserError
from lladav.model.vision import only_used_layers

MAX_BYTES = 5 * 2**20
"""Size of the model with its tokenizer."""


def test_the_shipped_model_is_complete_and_small():
    check_model(shipped_model())
    sizes = [file.stat().st_size for file in shipped_model().iterdir() if file.is_file()]
    assert sum(sizes) < MAX_BYTES


def test_the_shipped_model_has_the_sizes_of_the_settings():
    settings, own = load_config(["stage=si", "model=tiny"]).model, model_config_of(shipped_model())
    for name in ("language", "tokens", "images", "prediction", "attention"):
        assert getattr(own, name) == getattr(settings, name), name
    assert only_used_layers(own.vision) == only_used_layers(settings.vision)


def test_the_shipped_weights_are_bfloat16():
    from safetensors.torch import load_file

    for file in shipped_model().rglob("*.safetensors"):
        assert {tensor.dtype for tensor in load_file(file).values()} == {torch.bfloat16}, file


def test_a_missing_model_is_reported_with_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shipped, "SHIPPED", tmp_path / "tiny")
    with pytest.raises(UserError, match=r"tiny: the shipped model is not there.*make tiny-model"):
        shipped_model()
