"""Released weights are loaded into the right parameters; errors are one line, before any value changes."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lladav.checkpoint import export, load, model_config_of, open_model
from lladav.checkpoint.safetensors_reading import StoredTensor
from lladav.config.schema import ModelPart
from lladav.errors import UserError
from lladav.model.llada_v import LLaDAV
from tests.lladav.build import tiny_config, tiny_model

FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"
Q_PROJ = "model.layers.1.self_attn.q_proj.weight"


def values(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    """Edit the tensors of a one-file checkpoint."""
    tensors = load_file(folder / FILE)
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / FILE)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A tiny LLaDA-V checkpoint in one file."""
    folder = tmp_path / "saved"
    export(tiny_model(seed=1), tiny_config(), folder)
    return folder


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """The same checkpoint in several files with an index."""
    folder = tmp_path / "sharded"
    export(tiny_model(seed=1), tiny_config(), folder, max_shard_bytes=20_000)
    return folder


def test_the_golden_checkpoint_loads_by_its_released_names(golden: Any, released: LLaDAV) -> None:
    model = open_model(golden.folder / "checkpoint", torch.float32)
    assert equal(values(model), values(released))
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_both_golden_checkpoints_have_the_same_language_tower(golden: Any, released: LLaDAV) -> None:
    config = model_config_of(golden.folder / "checkpoint")
    model = tiny_model(config, seed=3)
    before = values(model)
    loaded = load(model, golden.folder / "llada_text_checkpoint")
    after = values(model)
    assert loaded == {name for name in before if name.startswith("language.")}
    assert equal(values(model.language), values(released.language))
    assert all(torch.equal(after[name], before[name]) for name in before.keys() - loaded)


def test_a_model_keeps_its_own_number_format(saved: Path) -> None:
    model = open_model(saved, torch.bfloat16)
    expected = {name: value.bfloat16() for name, value in values(tiny_model(seed=1)).items()}
    assert equal(values(model), expected)


def test_a_single_file_and_an_index_give_the_same_model(saved: Path, sharded: Path) -> None:
    for path in (saved, saved / FILE, sharded):
        model = tiny_model(seed=2)
        load(model, path)
        assert equal(values(model), values(tiny_model(seed=1)))


def test_only_the_given_parts_are_loaded(saved: Path) -> None:
    model = tiny_model(seed=2)
    before = values(model)
    loaded = load(model, saved, parts=[ModelPart.projector])
    assert loaded == {f"projector.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")}
    after, fresh = values(model), values(tiny_model(seed=1))
    assert equal(after, {name: fresh[name] if name in loaded else before[name] for name in before})


def test_the_published_tower_loads_without_its_unused_layers(tmp_path: Path) -> None:
    source = tiny_model(seed=1)
    export(source, tiny_config(), tmp_path / "tower", "siglip2")
    unused = {
        name: torch.ones(2) for name in ("logit_bias", "vision_model.head.probe", "text_model.x.weight")
    }
    unused["vision_model.encoder.layers.2.mlp.fc1.weight"] = torch.ones(2)
    unused["vision_model.embeddings.position_ids"] = torch.arange(3)
    rewrite(tmp_path / "tower", lambda tensors: tensors.update(unused))
    model = tiny_model(seed=2)
    loaded = load(model, tmp_path / "tower")
    assert loaded == {f"vision.{name}" for name, _ in model.vision.named_parameters()}
    assert equal(values(model.vision), values(source.vision))


@pytest.mark.parametrize("layout", ["llada_v", "llada"])
def test_buffers_of_old_checkpoints_are_skipped_with_a_log_line(
    layout: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, folder = tiny_model(seed=1), tmp_path / "old"
    export(source, tiny_config(), folder, layout)
    block = "model.transformer.blocks" if layout == "llada" else "model.layers"
    buffers = {f"{block}.{number}.self_attn.rotary_emb.inv_freq": torch.ones(4) for number in range(2)}
    rewrite(folder, lambda tensors: tensors.update(buffers))
    model = tiny_model(seed=2)
    load(model, folder)
    assert equal(values(model.language), values(source.language))
    assert f"{folder}: skips 2 buffers that the model computes" in caplog.text
    assert next(iter(buffers)) in caplog.text


def test_tensors_are_read_one_at_a_time(sharded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    earlier: list[weakref.ref[Tensor]] = []
    plain_read = StoredTensor.read

    def spied_read(stored: StoredTensor) -> Tensor:
        assert all(reference() is None for reference in earlier), "an earlier tensor is still in memory"
        tensor = plain_read(stored)
        earlier.append(weakref.ref(tensor))
        return tensor

    monkeypatch.setattr(StoredTensor, "read", spied_read)
    load(tiny_model(), sharded)
    assert len(earlier) == len(list(tiny_model().parameters()))


def truncate(folder: Path) -> None:
    content = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(content[:-100])


def cut_header(folder: Path) -> None:
    (folder / FILE).write_bytes((folder / FILE).read_bytes()[:200])


def spoil_header(folder: Path) -> None:
    content = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(content.replace(b'"shape":[32,32]', b'"shape":[-2,32]'))


def leave_git_pointer(folder: Path) -> None:
    (folder / FILE).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 16031162368\n")


def misname(folder: Path) -> None:
    rewrite(folder, lambda t: t.update({"model.layers.1.self_attn.q_porj.weight": t.pop(Q_PROJ)}))


def deepen(folder: Path) -> None:
    rewrite(folder, lambda t: t.update({Q_PROJ.replace(".1.", ".7."): t[Q_PROJ].clone()}))


def reshape(folder: Path) -> None:
    rewrite(folder, lambda t: t.update({Q_PROJ: t[Q_PROJ][:5]}))


def count(folder: Path) -> None:
    rewrite(folder, lambda t: t.update({Q_PROJ: t[Q_PROJ].int()}))


def lose(folder: Path) -> None:
    rewrite(folder, lambda t: t.pop(Q_PROJ))


def empty(folder: Path) -> None:
    (folder / FILE).unlink()


def split(folder: Path) -> None:
    (folder / FILE).rename(folder / "a.safetensors")
    (folder / "b.safetensors").write_bytes((folder / "a.safetensors").read_bytes())


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (truncate, rf"{FILE}: truncated: \S+ ends at byte \d+, the file at \d+; copy it again"),
        (cut_header, rf"{FILE}: 200 bytes without a safetensors header; copy it again"),
        (spoil_header, rf"{FILE}: its safetensors header is damaged; copy it again$"),
        (leave_git_pointer, rf"{FILE}: \d+ bytes without a safetensors header; .*git lfs"),
        (
            misname,
            rf"{FILE}: unexpected tensor model\.layers\.1\.self_attn\.q_porj\.weight; expected {Q_PROJ}$",
        ),
        (
            deepen,
            rf"{FILE}: unexpected tensor model\.layers\.7\.self_attn\.q_proj\.weight; expected model\.layers",
        ),
        (reshape, rf"{FILE}: {Q_PROJ} has shape \[5, 32\]; expected \[32, 32\]$"),
        (count, rf"{FILE}: {Q_PROJ} is I32; expected one of F64, F32, F16, BF16$"),
        (lose, rf"saved: lacks tensor {Q_PROJ}; expected one of shape \[32, 32\]$"),
        (empty, rf"saved: holds no \.safetensors file; expected {FILE} or {INDEX} with its files$"),
        (split, rf"saved: holds 2 \.safetensors files but no {INDEX}; copy the index too$"),
    ],
)
def test_a_damaged_checkpoint_is_refused_in_one_line_and_changes_nothing(
    saved: Path, damage: Callable[[Path], None], line: str
) -> None:
    damage(saved)
    model = tiny_model(seed=2)
    with pytest.raises(UserError, match=line) as caught:
        load(model, saved)
    assert "\n" not in str(caught.value)
    assert equal(values(model), values(tiny_model(seed=2)))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tensor_that_is_not_finite_is_refused_by_name(saved: Path, dtype: torch.dtype, bad: float) -> None:
    rewrite(saved, lambda tensors: tensors[Q_PROJ].view(-1)[5].fill_(bad))
    with pytest.raises(UserError, match=rf"{FILE}: {Q_PROJ} has values that are not finite; ") as caught:
        open_model(saved, dtype)
    assert "\n" not in str(caught.value)


def test_values_too_large_for_the_number_format_are_refused(saved: Path) -> None:
    rewrite(saved, lambda tensors: tensors[Q_PROJ].view(-1)[5].fill_(1e6))
    open_model(saved, torch.bfloat16)
    with pytest.raises(UserError, match=rf"{Q_PROJ} has values too large for float16; use another dtype"):
        open_model(saved, torch.float16)


def test_large_values_whose_sum_overflows_are_finite(saved: Path) -> None:
    rewrite(saved, lambda tensors: tensors[Q_PROJ].fill_(60_000.0))
    assert open_model(saved, torch.float16)


def lose_file(folder: Path) -> str:
    file = sorted(folder.glob("model-*"))[1]
    file.unlink()
    return rf"{file.name}: missing; {INDEX} expects \d+ tensors in it \(\S+, \.\.\.\); copy it too$"


def swap_files(folder: Path) -> str:
    first, second, *_ = sorted(folder.glob("model-*"))
    first.write_bytes(second.read_bytes())
    return rf"{first.name}: lacks tensor \S+, which {INDEX} expects in it; copy both again$"


def break_index(folder: Path) -> str:
    (folder / INDEX).write_text((folder / INDEX).read_text()[:-20])
    return rf"{INDEX}: not JSON \(.*\); copy it again$"


def empty_index(folder: Path) -> str:
    (folder / INDEX).write_text(json.dumps({"weight_map": {}}))
    return rf"{INDEX}: has no weight_map of tensors to files; copy it again$"


@pytest.mark.parametrize("damage", [lose_file, swap_files, break_index, empty_index])
def test_a_damaged_index_is_refused_in_one_line(sharded: Path, damage: Callable[[Path], str]) -> None:
    line = damage(sharded)
    with pytest.raises(UserError, match=line):
        load(tiny_model(), sharded)


def test_a_missing_path_an_unknown_layout_and_the_wrong_tower_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere: no such file or folder; expected weights"):
        load(tiny_model(), tmp_path / "nowhere")
    export(tiny_model(), tiny_config(), tmp_path / "language", "llada")
    with pytest.raises(UserError, match=r"layout=lada: no such layout; did you mean llada\?"):
        load(tiny_model(), tmp_path / "language", layout="lada")
    with pytest.raises(UserError, match=r"language: the layout llada holds no vision weights"):
        load(tiny_model(), tmp_path / "language", parts=[ModelPart.vision])
    with pytest.raises(UserError, match=r"language: holds one tower only; expected a whole LLaDA-V"):
        open_model(tmp_path / "language", torch.float32)
