"""Two chained stages whose data, tokenizer, weights and runs are in a bucket: killed, resumed, resized."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from data.digits.preparation import prepare
from data.manifest.quarantine import read_rejects
from lladav.storage import file_sizes, files_in, location, read_text, subfolders, upload
from tests.buckets import BUCKET, S3Server
from tests.train.trainings import PATIENCE_SECONDS, kill_all, train_workers, wait_for
from train.checkpoints.run_folder import CONFIG, PREFIX, QUARANTINE, Run
from train.trainer.step_log import LOG

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(900)]

HOME = f"s3://{BUCKET}/whole"
RUNS, DATA = f"{HOME}/runs", f"{HOME}/digits"
STEPS, EVERY = 6, 2
SETTINGS = (
    *("model=tiny", "data=digits", f"data.root={DATA}", f"model.tokenizer={DATA}/tokenizer"),
    *(f"train.storage={RUNS}", "model.weights.language=null", "model.weights.vision=null"),
    *("stage.global_batch=4", "train.keep_checkpoints=99", "cluster.threads_per_worker=1"),
)
SI = ("stage=si", f"train.max_steps={STEPS}", f"train.checkpoint_every={EVERY}", "data.bad_sample_budget=0.6")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, s3_server: S3Server) -> Iterator[dict[str, str]]:
    """Of commands and of this process; the bucket has the data set, every third image of a stage damaged."""
    folder = tmp_path_factory.mktemp("bucket")
    prepare(folder / "digits", scale=0.02)
    damage(folder / "digits" / "mammoth_si")
    with pytest.MonkeyPatch.context() as patched, s3_server.reached():
        patched.setenv("LLADAV_CACHE", str(folder / "cache"))
        upload(folder / "digits", location(DATA))
        yield dict(os.environ)


def damage(folder: Path) -> None:
    """Leave the header of every third image in the folder's archives and clear the rest of it."""
    for archive in sorted(folder.glob("*.tar")):
        with tarfile.open(archive) as tar:
            members = [member for member in tar if member.isreg()][::3]
        with archive.open("r+b") as stream:
            for member in members:
                stream.seek(member.offset_data + member.size // 3)
                stream.write(bytes(member.size - member.size // 3))


def command(*settings: str) -> list[str]:
    return [sys.executable, "train/run.py", *SETTINGS, *settings]


def finish(root: Path, environment: dict[str, str], *settings: str) -> str:
    done = subprocess.run(
        command(*settings),
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def losses(run: str) -> dict[int, float]:
    rows = [json.loads(line) for line in read_text(location(RUNS) / run / LOG).splitlines()]
    assert len({row["step"] for row in rows}) == len(rows)
    return {row["step"]: row["loss"] for row in rows}


def quarantined(run: str) -> list[str]:
    """Ids of the samples on file."""
    folder = location(RUNS) / run / QUARANTINE
    return [reject.sample for name in files_in(folder) for reject in read_rejects(folder / name)]


def test_stages_in_a_bucket_are_chained_killed_resumed_and_resized(
    root: Path, environment: dict[str, str]
) -> None:
    finish(root, environment, "stage=pretrain", "train.max_steps=1")
    two_workers = command(*SI, "cluster.workers=2", "train.micro_batch=1")
    process = psutil.Popen(
        two_workers,
        cwd=root,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    run = Run(RUNS, "si-tiny-digits")
    try:
        wait_for(lambda: run.committed_step() >= EVERY, "the first checkpoint")
        train_workers(process)[0].kill()
        wait_for(lambda: process.poll() is not None, "the end of the run")
    finally:
        kill_all(process)
        process.wait()
    assert process.returncode == 0
    whole = losses(run.name)
    assert sorted(whole) == list(range(1, STEPS + 1))
    assert [checkpoint.workers for checkpoint in run.checkpoints()] == [2] * (STEPS // EVERY)
    bad = quarantined(run.name)
    assert bad
    assert len(set(bad)) == len(bad)

    copy_until(EVERY, run.name, "resized")
    told = finish(root, environment, *SI, "train.run=resized", "train.micro_batch=2")
    assert f"resumes after step {EVERY}" in told
    resized = losses("resized")
    assert sorted(resized) == list(range(1, STEPS + 1))
    assert resized == pytest.approx(whole, rel=1e-4)
    assert set(quarantined("resized")) <= set(bad)
    assert quarantined("resized")


def copy_until(step: int, run: str, name: str) -> None:
    """Copy a run as it was after a step: its settings, its log, and its checkpoints until then."""
    source, target = location(RUNS) / run, location(RUNS) / name
    folders = {f for f in subfolders(source) if f.startswith(PREFIX) and int(f.removeprefix(PREFIX)) <= step}
    for file in file_sizes(source):
        if file.split("/")[0] in {CONFIG, LOG, *folders}:
            source.fs.cp_file((source / file).path, (target / file).path)
