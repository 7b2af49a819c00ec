"""Mistakes in any stage of a command are reported before anything is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lladav.checkpoint import export
from lladav.config.loader import load
from lladav.config.schema import Config
from lladav.errors import UserError
from lladav.storage import location, make_folder, upload
from tests.digits import shared_digits
from tests.lladav.build import tiny_ar_config, tiny_config, tiny_model
from train.checkpoints.run_folder import WEIGHTS, Run
from train.trainer.preflight import check_stages, starting_weights
from train.trainer.stage import run_stage


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the built-in data set and of weights."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "digits").symlink_to(shared_digits())
    export(tiny_model(seed=0), tiny_config(), folder / "weights")
    return folder


def settings(data: Path, storage: Path | str, stage: str, *more: str) -> Config:
    weights = f"model.weights.llada_v={data / 'weights'}"
    paths = (f"data.root={data / 'digits'}", f"model.tokenizer={data / 'digits' / 'tokenizer'}", weights)
    return load([f"stage={stage}", "model=tiny", "data=digits", f"train.storage={storage}", *paths, *more])


@pytest.mark.parametrize(
    ("mistake", "line"),
    [
        ("model.weights.llada_v=/none", r"^model\.weights\.llada_v=/none: no such weights; "),
        ("train.init=/none", r"^train\.init=/none: no such weights; "),
        ("model.tokenizer=/none", r"^/none/tokenizer\.json: no such tokenizer; "),
        ("data.root=/none", r"^data\.sources\..*: no such file under /none; "),
    ],
)
def test_a_mistyped_path_does_not_bind_the_run(mistake: str, line: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=line):
        run_stage(settings(data, tmp_path / "runs", "pretrain", mistake))
    assert not (tmp_path / "runs").exists()
    corrected = settings(data, tmp_path / "runs", "pretrain")
    check_stages([corrected])
    Run.of(corrected).bind(corrected)


def test_unreadable_weights_are_found_by_their_header(data: Path, tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(UserError, match="without a safetensors header"):
        check_stages([settings(data, tmp_path, "pretrain", f"model.weights.llada_v={tmp_path / 'weights'}")])


def test_a_tower_that_ours_cannot_be_is_found_by_its_config(data: Path, tmp_path: Path) -> None:
    export(tiny_model(), tiny_ar_config(), tmp_path / "llama", "llama_hf")
    file = tmp_path / "llama" / "config.json"
    scaled = {"rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0}}
    file.write_text(json.dumps(json.loads(file.read_text()) | scaled))
    weights = ("model.weights.llada_v=null", f"model.weights.language={file.parent}")
    with pytest.raises(UserError, match=f"^{file}: rope_type is 'llama3'; only towers without a scaled"):
        check_stages([settings(data, tmp_path, "pretrain", *weights)])


def mine(data: Path, storage: Path, *more: str) -> Config:
    """Fine-tuning on some records of the built-in data set."""
    files = {"annotations": "mammoth_si/annotations.json", "media": "mammoth_si/images_*.tar"}
    source = [f"data.sources.mine.{key}={value}" for key, value in files.items()]
    return settings(data, storage, "finetune", "data=mine", *source, *more)


def test_fine_tuning_starts_from_the_released_model(data: Path, tmp_path: Path) -> None:
    released = mine(data, tmp_path, f"model.weights.released={data / 'weights'}")
    check_stages([released])
    assert starting_weights(released) == str(data / "weights")
    other = mine(data, tmp_path, "model.weights.released=GSAI-ML/LLaDA-V", f"train.init={data / 'weights'}")
    assert starting_weights(other) == str(data / "weights")


def test_fine_tuning_keeps_the_id_of_the_released_model(data: Path, tmp_path: Path) -> None:
    config = mine(data, tmp_path, "model.weights.released=no-such-owner/no-such-model")
    assert starting_weights(config) == "no-such-owner/no-such-model"
    with pytest.raises(UserError, match="hf download no-such-owner/no-such-model, or copy it"):
        check_stages([config])


def test_fine_tuning_needs_a_released_model(data: Path, tmp_path: Path) -> None:
    line = r"^stage finetune starts from the released model, and conf/model/tiny\.yaml names none; set model"
    with pytest.raises(UserError, match=line):
        check_stages([mine(data, tmp_path, "model.weights.released=null")])


def test_a_stage_needs_its_predecessor_in_storage_or_in_the_same_command(data: Path, tmp_path: Path) -> None:
    first, second = (settings(data, tmp_path / "runs", stage) for stage in ("pretrain", "si"))
    check_stages([first, second])
    with pytest.raises(UserError, match="stage si starts from pretrain, which has no run"):
        check_stages([second])


def test_a_mistake_in_the_last_stage_is_reported_at_once(data: Path, tmp_path: Path) -> None:
    stages = [settings(data, tmp_path / "runs", stage) for stage in ("pretrain", "si")]
    other = settings(data, tmp_path / "runs", "si", "train.seed=7")
    Run.of(other).bind(other)
    with pytest.raises(UserError, match=r"^run si-tiny-digits was started with train\.seed=7, now 42"):
        check_stages(stages)


def test_a_run_resumes_without_its_predecessor_and_without_weights(data: Path, tmp_path: Path) -> None:
    config = settings(data, tmp_path / "runs", "si", "model.weights.llada_v=/removed")
    run = Run.of(config)
    run.bind(config)
    make_folder(run.checkpoint_path(50))
    run.commit(50, 157, 1)
    check_stages([config])


def test_the_predecessor_in_a_bucket_keeps_its_scheme(data: Path, tmp_path: Path, bucket: str) -> None:
    first, second = (settings(data, bucket, stage) for stage in ("pretrain", "si"))
    run = Run.of(first)
    export(tiny_model(seed=0), tiny_config(), tmp_path / "out" / WEIGHTS)
    upload(tmp_path / "out", run.checkpoint_path(100))
    run.commit(100, 100, 1)
    check_stages([second])
    assert starting_weights(second) == f"{bucket}/pretrain-tiny-digits/checkpoint-00000100/weights"
    copied = settings(data, bucket, "si", f"train.init={bucket}/x/weights")
    assert starting_weights(copied) == f"{bucket}/x/weights"


@pytest.mark.usefixtures("bucket")
def test_a_bucket_that_cannot_be_read_is_one_line(data: Path) -> None:
    storage = "s3://no-such-bucket/runs"
    config = settings(data, storage, "pretrain")
    check_stages([config])
    with pytest.raises(
        UserError, match=rf"^{storage}/pretrain-tiny-digits: cannot be written \(no such file"
    ):
        Run.of(config).bind(config)
    assert not location(storage).exists()
