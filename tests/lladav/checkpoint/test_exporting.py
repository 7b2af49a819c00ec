"""Exported files contain the exact weights of the model and can be read by other programs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import SiglipVisionModel

from lladav.checkpoint import LAYOUTS, convert, export, load, model_config_of
from lladav.checkpoint.index import stored_tensors
from lladav.checkpoint.safetensors_writing import TensorSpec, TensorWriter
from lladav.errors import UserError
from lladav.inputs.chat import ChatTokenizer
from lladav.model.llada_v import LLaDAV
from tests.lladav.build import config_for_layout, tiny_config, tiny_model


def values(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def all_tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a folder, read with the safetensors library."""
    tensors: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(file)
    return tensors


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("max_shard_bytes", [10**9, 9_000])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_export_then_load_is_bit_exact(
    tmp_path: Path, layout: str, max_shard_bytes: int, dtype: torch.dtype
) -> None:
    model = tiny_model(seed=1).to(dtype)
    export(model, config_for_layout(layout), tmp_path / "out", layout, max_shard_bytes=max_shard_bytes)
    again = tiny_model(seed=2).to(dtype)
    loaded = load(again, tmp_path / "out")
    source, result = values(model), values(again)
    assert loaded == {name for name in source if LAYOUTS[layout].released(name)}
    assert all(torch.equal(result[name], source[name]) for name in loaded)


def test_mixed_number_formats_are_kept(tmp_path: Path) -> None:
    model = tiny_model(seed=1)
    model.projector.bfloat16()
    export(model, tiny_config(), tmp_path / "out")
    written = all_tensors(tmp_path / "out")
    assert written["model.mm_projector.0.bias"].dtype == torch.bfloat16
    assert torch.equal(written["model.mm_projector.0.weight"], values(model)["projector.0.weight"])
    assert torch.equal(written["model.image_newline"], model.newline)


def test_wider_number_formats_come_first_for_alignment(tmp_path: Path) -> None:
    model = tiny_model()
    model.projector.bfloat16()
    export(model, tiny_config(), tmp_path / "out")
    stored = stored_tensors(tmp_path / "out").values()
    last_wide = max(tensor.end for tensor in stored if tensor.dtype == "F32")
    assert last_wide <= min(tensor.start for tensor in stored if tensor.dtype == "BF16")


def test_the_golden_checkpoint_is_exported_unchanged(golden: Any, released: LLaDAV, tmp_path: Path) -> None:
    export(released, released.config, tmp_path / "out")
    expected, written = all_tensors(golden.folder / "checkpoint"), all_tensors(tmp_path / "out")
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[name], expected[name]) for name in expected)


def test_transformers_opens_an_exported_tower_and_computes_the_same(tmp_path: Path) -> None:
    model = tiny_model(seed=1)
    export(model, tiny_config(), tmp_path / "tower", "siglip2")
    loaded: Any = SiglipVisionModel.from_pretrained(tmp_path / "tower", output_loading_info=True)
    opened, report = loaded
    assert not any(report.values())
    views = torch.randint(0, 256, (2, 3, 28, 28), dtype=torch.uint8)
    with torch.no_grad():
        states = opened(views / 127.5 - 1, output_hidden_states=True).hidden_states
        torch.testing.assert_close(states[-1], model.vision(views))


def test_shards_have_at_most_their_size_and_the_index_lists_each_tensor(tmp_path: Path) -> None:
    export(tiny_model(), tiny_config(), tmp_path / "out", max_shard_bytes=10_000)
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    names = [f"model-{number:05d}-of-{len(files):05d}.safetensors" for number in range(1, len(files) + 1)]
    assert [file.name for file in files] == names
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    for file in files:
        held = load_file(file)
        assert set(held) == {name for name, each in index["weight_map"].items() if each == file.name}
        assert sum(tensor.nbytes for tensor in held.values()) <= 10_000
    total = sum(parameter.nbytes for parameter in tiny_model().parameters())
    assert index["metadata"]["total_size"] == total


def test_the_tokenizer_is_exported_too(golden: Any, tmp_path: Path) -> None:
    export(tiny_model(), tiny_config(), tmp_path / "out", tokenizer=golden.folder / "tokenizer")
    for file in (golden.folder / "tokenizer").iterdir():
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()


def test_a_failed_export_leaves_no_files(tmp_path: Path) -> None:
    @contextmanager
    def failing(parameters: list[nn.Parameter]) -> Iterator[None]:
        if parameters[0].shape[0] == 70:
            raise OSError(28, "No space left on device")
        yield

    line = r"out: cannot be written \(No space left on device\); nothing was kept of it$"
    with pytest.raises(UserError, match=line):
        export(tiny_model(), tiny_config(), tmp_path / "out", gather=failing)
    with pytest.raises(UserError, match=r"holds no tokenizer\.json"):
        export(tiny_model(), tiny_config(), tmp_path / "out", tokenizer=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_export_is_not_overwritten(tmp_path: Path) -> None:
    export(tiny_model(), tiny_config(), tmp_path / "out")
    before = all_tensors(tmp_path / "out")
    with pytest.raises(UserError, match=r"out: already there; remove it or choose another folder$"):
        export(tiny_model(seed=1), tiny_config(), tmp_path / "out")
    assert all(torch.equal(tensor, before[name]) for name, tensor in all_tensors(tmp_path / "out").items())


def test_a_rank_that_does_not_write_gathers_the_same_parameters_in_the_same_order(tmp_path: Path) -> None:
    asked: dict[bool, list[tuple[int, ...]]] = {True: [], False: []}
    for writes in asked:

        @contextmanager
        def gather(parameters: list[nn.Parameter], log: list[Any] = asked[writes]) -> Iterator[None]:
            log.append(tuple(parameters[0].shape))
            yield

        model = tiny_model()
        model.projector.bfloat16()
        export(model, tiny_config(), tmp_path / f"{writes}", gather=gather, writes=writes)
    assert asked[True] == asked[False]
    assert [folder.name for folder in tmp_path.iterdir()] == ["True"]


def test_a_slow_rank_gathers_when_the_rank_that_writes_has_finished(tmp_path: Path) -> None:
    for writes in (True, False):
        export(tiny_model(), tiny_config(), tmp_path / "out", writes=writes)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_converting_equals_exporting(tmp_path: Path, layout: str) -> None:
    model, config = tiny_model(seed=1), config_for_layout(layout)
    export(model, config, tmp_path / "whole", max_shard_bytes=9_000)
    convert(tmp_path / "whole", tmp_path / "converted", layout)
    export(model, config, tmp_path / "exported", layout)
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "converted" / file).read_bytes() == (tmp_path / "exported" / file).read_bytes()


def test_converting_copies_the_tokenizer_and_refuses_missing_tensors(golden: Any, tmp_path: Path) -> None:
    tokenizer = golden.folder / "tokenizer"
    config = replace(tiny_config(), tokens=ChatTokenizer.load(tokenizer).ids)
    export(tiny_model(), config, tmp_path / "language", "llada", tokenizer=tokenizer)
    convert(tmp_path / "language", tmp_path / "renamed", "llada_hf")
    assert (tmp_path / "renamed" / "tokenizer.json").is_file()
    line = r"language: holds no model\.\S+; expected weights with all that llada_v needs$"
    with pytest.raises(UserError, match=line):
        convert(tmp_path / "language", tmp_path / "whole", "llada_v")
    assert not (tmp_path / "whole").exists()


def test_the_writer_checks_tensors_against_the_header(tmp_path: Path) -> None:
    specs = [TensorSpec("a", torch.float32, (2, 3)), TensorSpec("b", torch.float32, ())]
    with TensorWriter(tmp_path / "good", specs) as writer:
        writer.add(torch.ones(3, 2).T)
        writer.add(torch.tensor(5.0))
    assert load_file(tmp_path / "good")["b"].item() == 5.0
    with pytest.raises(AssertionError), TensorWriter(tmp_path / "shape", specs) as writer:
        writer.add(torch.ones(3, 2))
    with pytest.raises(AssertionError), TensorWriter(tmp_path / "short", specs) as writer:
        writer.add(torch.ones(2, 3))


def test_an_exported_config_is_read_back_unchanged(tmp_path: Path) -> None:
    config = tiny_config(kv_heads=2)
    export(LLaDAV(config), config, tmp_path / "out")
    again = model_config_of(tmp_path / "out")
    assert again.weights.llada_v == again.tokenizer == str(tmp_path / "out")
    again.weights, again.tokenizer = config.weights, config.tokenizer
    assert again == config
