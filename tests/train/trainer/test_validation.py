"""Validations under ZeRO-3: the loss, what they leave unchanged, the best checkpoint, and the early end."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from data.manifest.manifest import open_manifest
from data.manifest.quarantine import Quarantine
from data.pipeline.microbatches import to_batch
from data.pipeline.plan import Plan
from data.pipeline.streams import SampleStream
from data.pipeline.validation import ValidationSet
from lladav.checkpoint import export, open_model
from lladav.config.schema import (
    AdapterKind,
    Attention,
    Config,
    DataConfig,
    LoraConfig,
    Prediction,
    SourceConfig,
    SourceFormat,
    ValidationConfig,
)
from lladav.decoding.engine import decode
from lladav.decoding.params import DecodingOptions
from lladav.diffusion.likelihood import AnswerLikelihood, answer_nats
from lladav.diffusion.masking import Stratum
from lladav.inputs.chat import ChatTokenizer
from tests.data.build import image_file, json_source, record
from tests.lladav.build import tiny_model
from tests.train.ranks import on_ranks
from tests.train.settings import LEARNING, settings
from train.checkpoints.run_folder import QUARANTINE, WEIGHTS, Run
from train.trainer.answering import AskedSample
from train.trainer.step_log import ANSWERS as ANSWERS_LOG
from train.trainer.step_log import LOG, StepLog, read_steps

RECORDS, STEPS, EVERY = 30, 6, 2
ANSWERS = ("Seven.", "A cat and a dog.", "No.")
Rows = list[dict[str, Any]]


class Killed(BaseException):
    """Ends a run in the middle of a step, as a killed process does."""


def kills_in(step: int | None) -> Callable[[], None]:
    """A function that raises when it is called for the ``step``-th time; it is called once in each step."""
    calls = 0

    def call() -> None:
        nonlocal calls
        calls += 1
        if calls == step:
            raise Killed

    return call


def run_settings(folder: Path, run: str, **train: Any) -> Config:
    """A run on the records in ``folder``, of which a third is held out."""
    config = settings(folder / "runs", global_batch=2, sources=["mine"], max_length=1000)
    tokenizer = ChatTokenizer.load(config.model.tokenizer)
    config.model.tokens, config.model.language.vocab_size = tokenizer.ids, tokenizer.vocab_size
    config.data = DataConfig(
        name="test",
        root=str(folder),
        sources={"mine": SourceConfig(SourceFormat.json, "records.json", "images")},
        validation=ValidationConfig(share=0.3, samples=7, draws=2),
    )
    config.train = replace(config.train, run=run, max_steps=STEPS, validate_every=EVERY, **train)
    return config


def write_records(folder: Path) -> None:
    rows = [record(str(n), *[["a.png"], []][n % 2], answer=ANSWERS[n % 3]) for n in range(RECORDS)]
    json_source(folder, rows, {"a.png": image_file(30, 30)})


def train(config: Config, killed_in: int | None = None, validates: bool = True) -> Rows:
    """Train from the newest checkpoint to the end, or into the ``killed_in``-th step; the rows of the log."""
    from train.trainer.job import Job
    from train.trainer.loop import Worker

    manifest = open_manifest(config)
    held_out = ValidationSet.of(manifest, config) if validates else None
    job = Job(config, str(manifest.folder), Plan.of(manifest, config).steps, None, held_out)
    worker = Worker(job, deadline=kills_in(killed_in), report=lambda _: None)
    stream = SampleStream.of(config, manifest, worker.rank, worker.workers, worker.first_step)
    batches = (to_batch(stream.build(row), config.model.vision.image_size) for row in stream.rows)
    path = worker.store.path
    with suppress(Killed), Quarantine(path / QUARANTINE, worker.rank, {}, RECORDS) as quarantine:
        if worker.rank:
            worker.train(batches, None, quarantine)
        else:
            with StepLog(path, worker.first_step) as log:
                worker.train(batches, log, quarantine)
    return read_steps(Path(str(path)) / LOG)


def diverging(folder: Path, run: str) -> Config:
    """A run whose loss rises as soon as the learning rate is above 0, in the second step."""
    config = run_settings(folder, run, patience=2)
    config.train.validate_every = 1
    config.stage.lr = replace(LEARNING, language=0.5)
    return config


def adapted(folder: Path) -> Config:
    """A run of adapters with dropout."""
    config = run_settings(folder, "adapted", adapter=AdapterKind.lora)
    export(tiny_model(config.model), config.model, folder / "base")
    config.train.lora = LoraConfig(rank=4, lr=1e-2, dropout=0.5)
    config.model.weights.llada_v = str(folder / "base")
    return config


def asking(config: Config, kind: Prediction = Prediction.masked) -> Config:
    """The same run with questions at each validation."""
    config.data.validation.questions, config.data.validation.answer_tokens = 3, 8
    config.objective.kind = config.model.prediction = kind
    config.model.allow_eos = kind is Prediction.masked
    if kind is Prediction.next_token:
        config.model.attention = Attention.causal
    return config


def train_all(folder: Path) -> dict[str, Rows]:
    """The runs of the tests, one after another in one process."""
    killed, stopped = run_settings(folder, "killed"), diverging(folder, "stopped and killed")
    train(killed, killed_in=4)
    train(stopped, killed_in=3)
    return {
        "whole": train(run_settings(folder, "whole")),
        "killed": train(killed),
        "without": train(run_settings(folder, "without"), validates=False),
        "stopped": train(diverging(folder, "stopped")),
        "stopped and killed": train(stopped),
        "adapted": train(adapted(folder)),
        "next token": train(asking(run_settings(folder, "next token"), Prediction.next_token)),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("validation")
    write_records(folder)
    return folder


@pytest.fixture(scope="module")
def runs(folder: Path) -> dict[str, Rows]:
    (rows,) = on_ranks(1, train_all, folder)
    return rows


def losses(rows: Rows, name: str = "validation_loss") -> dict[int, float]:
    return {row["step"]: row[name] for row in rows if name in row}


def run_of(folder: Path, name: str) -> Run:
    return Run(str(folder / "runs"), name)


@torch.no_grad()
def loss_of(weights: Path, config: Config) -> float:
    """The validation loss of a checkpoint, sample by sample in a plain model."""
    model = open_model(weights, torch.float32)
    held_out = ValidationSet.of(open_manifest(config), config)
    likelihood = AnswerLikelihood(model.config.prediction, model.config.tokens, model.geometry, 64)
    nats = tokens = 0.0
    for position, sample in enumerate(held_out.read(range(len(held_out))).samples):
        for draw in range(2):
            batch = likelihood.batch([sample], [Stratum(7 * draw + position, 14)], draw)
            more = answer_nats(batch, model(batch)[1])
            nats, tokens = nats + more[0], tokens + more[1]
    return nats / tokens


@pytest.mark.slow
@pytest.mark.parametrize("name", ["whole", "adapted"])
def test_the_loss_is_that_of_a_plain_model(folder: Path, runs: dict[str, Rows], name: str) -> None:
    config = run_settings(folder, name)
    assert [*losses(runs[name])] == [2, 4, 6]
    weights = Path(str(run_of(folder, name).checkpoint_path(STEPS))) / WEIGHTS
    assert losses(runs[name])[STEPS] == pytest.approx(loss_of(weights, config), rel=1e-5)


@pytest.mark.slow
def test_validations_change_no_loss_of_training(runs: dict[str, Rows]) -> None:
    assert losses(runs["whole"], "loss") == losses(runs["without"], "loss")
    assert not losses(runs["without"])


@pytest.mark.slow
def test_a_killed_run_has_the_same_losses_and_the_same_best_checkpoint(
    folder: Path, runs: dict[str, Rows]
) -> None:
    for name in ("loss", "validation_loss"):
        assert losses(runs["killed"], name) == losses(runs["whole"], name)
    killed, whole = run_of(folder, "killed"), run_of(folder, "whole")
    assert [each.step for each in killed.checkpoints()] == [each.step for each in whole.checkpoints()]
    best, expected = killed.best(), whole.best()
    assert best is not None
    assert expected is not None
    assert best.best == expected.best
    assert best.step == min(losses(runs["whole"]), key=losses(runs["whole"]).__getitem__)


@pytest.mark.slow
def test_a_run_ends_early_and_keeps_its_best_checkpoint(folder: Path, runs: dict[str, Rows]) -> None:
    assert [*losses(runs["stopped"])] == [1, 2, 3]
    run = run_of(folder, "stopped")
    assert run.finished
    assert [each.step for each in run.checkpoints()] == [1, 3]
    best = run.best()
    assert best is not None
    assert best.step == 1


@pytest.mark.slow
def test_a_killed_run_ends_at_the_same_step(folder: Path, runs: dict[str, Rows]) -> None:
    assert losses(runs["stopped and killed"]) == losses(runs["stopped"])
    resumed, whole = run_of(folder, "stopped and killed").latest(), run_of(folder, "stopped").latest()
    assert resumed is not None
    assert whole is not None
    assert (resumed.step, resumed.best, resumed.final) == (whole.step, whole.best, True)


@pytest.mark.slow
def test_two_ranks_measure_the_same_loss(folder: Path, runs: dict[str, Rows]) -> None:
    """The second rank has fewer samples than the first."""
    rows, _ = on_ranks(2, train, asking(run_settings(folder, "two ranks")))
    assert losses(rows) == pytest.approx(losses(runs["whole"]), rel=1e-5)
    check_answers(folder, "two ranks", rows)


@pytest.mark.slow
def test_a_model_that_predicts_the_next_token_is_validated(folder: Path, runs: dict[str, Rows]) -> None:
    assert [*losses(runs["next token"])] == [2, 4, 6]
    check_answers(folder, "next token", runs["next token"])


def check_answers(folder: Path, name: str, rows: Rows) -> None:
    """Whether the last answers of a run are those of the decoding engine with the written weights."""
    path = folder / "runs" / name
    model = open_model(path / f"checkpoint-{STEPS:08}" / WEIGHTS, torch.float32)
    config, tokenizer = run_settings(folder, name), ChatTokenizer.load(settings(folder).model.tokenizer)
    samples = ValidationSet.of(open_manifest(config), config).read(range(3)).samples
    prompts = [AskedSample.of(sample, tokenizer).prompt for sample in samples]
    is_masked = model.config.prediction is Prediction.masked
    options = {"block_length": 8, "refresh_interval": 1, "allow_eos": True} if is_masked else {}
    chat = DecodingOptions.for_chat(model.config.tokens, model.config.prediction, max_tokens=8, **options)
    expected = [tokenizer.decode(each.tokens) for each in decode(model, prompts, chat)]
    written = [row for row in read_steps(path / ANSWERS_LOG) if row["step"] == STEPS]
    assert [row["answer"] for row in written] == expected
    assert [row["expected"] in ANSWERS for row in written] == [True] * 3
    assert {row["question"] for row in written} == {"What is it?"}
    right = [row["answer"].strip() == row["expected"].strip() for row in written]
    assert [row["correct"] for row in written] == right
    assert losses(rows, "validation_exact_match")[STEPS] == pytest.approx(sum(right) / 3)
