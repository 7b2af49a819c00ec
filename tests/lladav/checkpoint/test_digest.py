"""The digest of a checkpoint's weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from lladav.checkpoint import export, weights_digest
from lladav.errors import UserError
from tests.lladav.build import tiny_config, tiny_model

FILE = "model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("weights")
    config = tiny_config()
    export(tiny_model(config), config, made)
    return made


def test_the_same_weights_have_the_same_digest_wherever_they_are(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, copy := tmp_path / "a copy")
    assert weights_digest(copy) == weights_digest(folder) == weights_digest(copy / FILE)
    assert len(weights_digest(folder)) == 16


def test_training_any_tensor_changes_the_digest(folder: Path, tmp_path: Path) -> None:
    tensors, seen = load_file(folder / FILE), {weights_digest(folder)}
    for name, tensor in tensors.items():
        save_file({**tensors, name: tensor + 1}, tmp_path / FILE)
        seen.add(weights_digest(tmp_path))
    assert len(seen) == len(tensors) + 1


def test_the_scaling_of_an_adapter_changes_the_digest(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    seen = {weights_digest(tmp_path)}
    for alpha in (16, 32):
        (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": alpha}))
        seen.add(weights_digest(tmp_path))
    assert len(seen) == 3


def test_missing_weights_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no \.safetensors file"):
        weights_digest(tmp_path)
