"""``train/export.py`` writes a run's newest checkpoint in a released layout."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lladav.checkpoint import (
    LAYOUTS,
    AdapterBase,
    export,
    export_adapter,
    load,
    model_config_of,
    open_model,
)
from lladav.checkpoint.index import stored_tensors
from lladav.config import loader as settings
from lladav.config.schema import LoraConfig, ModelPart
from lladav.inputs.chat import ChatTokenizer
from lladav.inputs.packing import pack
from lladav.model.llada_v import LLaDAV
from lladav.model.lora import add_lora, lora_parameters
from lladav.storage import location
from tests.lladav.build import image_sample, text_sample, tiny_config, tiny_model
from train.checkpoints.best import BestValidation
from train.checkpoints.run_folder import WEIGHTS, Run
from train.export import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def storage(golden: Any, tmp_path: Path) -> Path:
    """A run with two committed checkpoints and a third that is not committed."""
    tokenizer, storage = golden.folder / "tokenizer", tmp_path / "runs"
    arguments = ["stage=vw", "train.run=trial", f"train.storage={storage}", f"model.tokenizer={tokenizer}"]
    config = settings.load(arguments)
    run = Run.of(config)
    run.bind(config)
    model = replace(tiny_config(), tokens=ChatTokenizer.load(tokenizer).ids)
    for step in (10, 20, 30):
        folder = run.checkpoint_path(step) / WEIGHTS
        export(tiny_model(seed=step), model, str(folder), tokenizer=tokenizer)
        if step < 30:
            run.commit(step, total_steps=40, workers=1)
    return storage


def assert_holds_step_20(folder: Path, layout: str = "llada_v") -> None:
    expected, model = dict(tiny_model(seed=20).named_parameters()), tiny_model(seed=0)
    loaded = load(model, folder, layout=layout)
    assert loaded
    assert all(
        torch.equal(value, expected[name]) for name, value in model.named_parameters() if name in loaded
    )


@pytest.mark.parametrize("layout", ["llada_v", "llada", "llada_hf", "siglip2"])
def test_the_newest_committed_checkpoint_is_written(
    storage: Path, tmp_path: Path, layout: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    main(["run=trial", f"out={out}", f"storage={storage}", f"layout={layout}"])
    assert_holds_step_20(out, layout)
    assert (out / "tokenizer.json").is_file()
    output = capsys.readouterr().out
    assert output.startswith(f"{out}: {LAYOUTS[layout].what} from step 20 of trial, ")
    assert output.count("\n") == 1


def test_the_best_checkpoint_is_written_on_demand(storage: Path, tmp_path: Path) -> None:
    Run(str(storage), "trial").commit(30, total_steps=40, workers=1, best=BestValidation(20, 1.5, later=1))
    main(["run=trial", f"out={tmp_path / 'out'}", f"storage={storage}", "checkpoint=best"])
    assert_holds_step_20(tmp_path / "out")


def test_run_may_name_the_folder_of_a_run_or_of_weights(storage: Path, tmp_path: Path) -> None:
    main([f"run={storage / 'trial'}", f"out={tmp_path / 'first'}"])
    assert_holds_step_20(tmp_path / "first")
    main([f"run={tmp_path / 'first'}", f"out={tmp_path / 'second'}"])
    assert_holds_step_20(tmp_path / "second")
    assert (tmp_path / "second" / "tokenizer.json").is_file()


def test_an_export_opens_as_the_trained_model(storage: Path, tmp_path: Path) -> None:
    main(["run=trial", f"out={tmp_path / 'out'}", f"storage={storage}"])
    config = model_config_of(tmp_path / "out")
    assert config.images == tiny_config().images
    assert LLaDAV(config).geometry == tiny_model().geometry


@pytest.fixture
def adapter_run(storage: Path, tmp_path: Path) -> LLaDAV:
    """A run whose newest checkpoint is an adapter; returns the model that it has trained."""
    model = tiny_model(seed=0).requires_grad_(False)
    export(model, tiny_config(), tmp_path / "base")
    lora = LoraConfig(rank=4, alpha=6)
    add_lora(model, lora, [ModelPart.language])
    trained = lora_parameters(model)
    for parameter in trained.values():
        parameter.data.normal_(0.0, 0.1)
    run, base = Run(str(storage), "trial"), AdapterBase.of(str(tmp_path / "base"))
    export_adapter(trained, tiny_config(), lora, base, str(run.checkpoint_path(50) / WEIGHTS))
    run.commit(50, total_steps=50, workers=1)
    return model


def test_an_adapter_is_merged_into_its_base(adapter_run: LLaDAV, storage: Path, tmp_path: Path) -> None:
    main(["run=trial", f"out={tmp_path / 'out'}", f"storage={storage}"])
    merged = open_model(tmp_path / "out", torch.float32)
    packed = pack(
        [text_sample("text", 9), image_sample("image", merged.geometry, [(40, 28)])], merged.geometry
    )
    with torch.no_grad():
        torch.testing.assert_close(merged.hidden(packed), adapter_run.hidden(packed))


@pytest.mark.usefixtures("adapter_run")
def test_precision_sets_the_number_format_of_all_tensors(storage: Path, tmp_path: Path) -> None:
    main(["run=trial", f"out={tmp_path / 'out'}", f"storage={storage}", "precision=bf16"])
    assert {tensor.dtype for tensor in stored_tensors(location(tmp_path / "out")).values()} == {"BF16"}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["run=trial"], "error: out: needs a value, as in run=vw-tiny-digits out=exported"),
        (
            ["run=other", "out={out}"],
            "error: run=other: {storage}/other has no finished checkpoint; train it first",
        ),
        (
            ["run=trial", "out={out}", "layuot=llada"],
            "error: layuot=llada: not a setting, write key=value; did you mean",
        ),
        (
            ["run=trial", "out={out}", "layout=lada"],
            "error: layout=lada: no such layout; did you mean llada?",
        ),
        (
            ["run=trial", "out={out}", "layout=llama_hf"],
            "error: layout=llama_hf: is for models with objective.kind=next_token, and this one has masked",
        ),
        (
            ["run=trial", "out={out}", "precision=half"],
            "error: precision=half: no such choice (choices: float32, bf16)",
        ),
        (
            ["run=trial", "out={storage}"],
            "error: {storage}: already there; remove it or choose another folder",
        ),
    ],
)
def test_mistakes_are_one_line(
    storage: Path,
    arguments: list[str],
    line: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    paths = {"storage": storage, "out": tmp_path / "out"}
    with pytest.raises(SystemExit) as stopped:
        main([argument.format(**paths) for argument in arguments] + [f"storage={storage}"])
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert error.startswith(line.format(**paths))
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_it_runs_as_a_script_from_any_folder(storage: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(ROOT / "train" / "export.py"),
        "run=trial",
        "out=out",
        f"storage={storage}",
    ]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert_holds_step_20(tmp_path / "out")
