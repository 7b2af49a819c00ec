"""``train/export.py`` writes a run's newest checkpoint in a released layout."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lladav.checkpoint import LAYOUTS, export, load, model_config_of
from lladav.config import loader as settings
from lladav.inputs.chat import ChatTokenizer
from lladav.model.llada_v import LLaDAV
from tests.lladav.build import tiny_config, tiny_model
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
