"""Training of adapters under ZeRO-3: exact, resumable, and nothing else changes or is saved."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lladav.checkpoint import export, load
from lladav.checkpoint.adapters import ADAPTER_WEIGHTS
from lladav.config.schema import AdapterKind, Config, LoraConfig, ModelPart, Precision
from lladav.errors import UserError
from lladav.model.initialization import initialize
from lladav.model.llada_v import LLaDAV
from lladav.model.lora import add_lora, lora_parameters
from tests.lladav.build import tiny_config, tiny_model
from tests.train.ranks import on_ranks
from tests.train.settings import settings
from tests.train.steps import GLOBAL_BATCH, STEPS, micro_batches, train
from train.checkpoints.run_folder import ENGINE, WEIGHTS, Run
from train.trainer.starting_point import starting_point

VOCABULARY = {"language.embed_tokens.weight", "language.lm_head.weight"}
ROUNDING = 1e-5
"""Relative difference of a loss when terms are summed in another order."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "weights"
    export(tiny_model(), tiny_config(), folder)
    return folder


def lora_settings(base: Path, storage: Path, dropout: float = 0.0, **stage: object) -> Config:
    config = settings(storage, global_batch=GLOBAL_BATCH, **stage)
    config.model.weights.llada_v = str(base)
    config.train.adapter = AdapterKind.lora
    config.train.lora = LoraConfig(rank=4, alpha=8, lr=1e-2, dropout=dropout)
    return config


@pytest.mark.slow
def test_a_resumed_run_gives_the_same_losses_also_with_dropout(base: Path, tmp_path: Path) -> None:
    config = lora_settings(base, tmp_path, dropout=0.3)
    losses, others = on_ranks(2, train, config, 0, STEPS, 2)
    assert losses == others
    assert on_ranks(2, train, config, 2, STEPS)[0] == losses[2:]


def trained_twice(config: Config) -> tuple[list[float], list[float]]:
    """The losses under ZeRO-3, with a checkpoint after step 2, and those of a plain model."""
    return train(config, 0, STEPS, 2), without_zero(config)


def without_zero(config: Config) -> list[float]:
    """The same training with a module and an optimizer of torch alone."""
    from train.trainer.lr_schedule import lr_factor
    from train.trainer.zero_engine import parameter_groups

    model = LLaDAV(config.model).requires_grad_(False)
    load(model, str(config.model.weights.llada_v))
    add_lora(model, config.train.lora, config.adapted)
    initialize(lora_parameters(model).items(), config.train.seed)
    optimizer = torch.optim.AdamW(parameter_groups(model, config))
    rates = [group["lr"] for group in optimizer.param_groups]
    trained = [p.requires_grad_(True) for group in optimizer.param_groups for p in group["params"]]
    losses = []
    for step in range(STEPS):
        total = 0.0
        for batch in micro_batches(config, step):
            loss, _ = model(batch)
            (loss / GLOBAL_BATCH).backward()
            total += float(loss.detach()) / GLOBAL_BATCH
        losses.append(total)
        torch.nn.utils.clip_grad_norm_(trained, config.train.clip)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * lr_factor(step, STEPS, config.train.warmup_ratio)
        optimizer.step()
        optimizer.zero_grad()
    return losses


@pytest.fixture(scope="module")
def run_of_one(
    base: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Config, list[float], list[float]]:
    config = lora_settings(base, tmp_path_factory.mktemp("runs"))
    ((losses, plain),) = on_ranks(1, trained_twice, config)
    return config, losses, plain


@pytest.mark.slow
def test_training_is_the_same_without_zero(run_of_one: tuple[Config, list[float], list[float]]) -> None:
    _, losses, plain = run_of_one
    assert losses == pytest.approx(plain, rel=ROUNDING)
    assert len(set(losses)) == STEPS


@pytest.mark.slow
def test_two_ranks_resume_a_run_of_one(run_of_one: tuple[Config, list[float], list[float]]) -> None:
    config, losses, _ = run_of_one
    assert on_ranks(2, train, config, 2, STEPS)[0] == pytest.approx(losses[2:], rel=ROUNDING)


@pytest.mark.slow
def test_a_checkpoint_holds_only_the_trained_parameters(
    run_of_one: tuple[Config, list[float], list[float]],
) -> None:
    latest = Run.of(run_of_one[0]).latest()
    assert latest
    weights = load_file(str(latest.path / WEIGHTS / ADAPTER_WEIGHTS))
    state = load_file(str(latest.path / ENGINE / "rank-00000-of-00001.safetensors"))
    model = tiny_model()
    add_lora(model, run_of_one[0].train.lora, run_of_one[0].adapted)
    trained = [*lora_parameters(model).values(), *model.projector.parameters()]
    count = sum(parameter.numel() for parameter in trained)
    assert sum(tensor.numel() for tensor in weights.values()) == count
    assert sum(tensor.numel() for tensor in state.values()) == 3 * count
    assert not (latest.path / WEIGHTS / "model.safetensors").exists()


def changes(config: Config) -> tuple[set[str], set[str], int, int]:
    """Parameters that change in two steps, those that are trained, bytes by the formula, and written ones."""
    from train.trainer.checkpointing import save
    from train.trainer.zero_engine import ZeroEngine, gathered

    engine = ZeroEngine(config, STEPS, None)

    def values() -> dict[str, Tensor]:
        named = dict(engine.model.named_parameters())
        with gathered([*named.values()]):
            return {name: parameter.detach().clone() for name, parameter in named.items()}

    before = values()
    for step in (1, 2):  # the learning rate of step 0 is 0, and A has no gradient while B is 0
        engine.step(micro_batches(config, step), step)
    after = values()
    assert save(engine, Run.of(config), config, 2, STEPS) is None
    files = Path(config.train.storage).glob("**/*.safetensors")
    tensors = [tensor for file in files for tensor in load_file(file).values()]
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    return changed, {*engine._trained()}, engine.checkpoint_bytes(), sum(tensor.nbytes for tensor in tensors)


@pytest.mark.slow
@pytest.mark.parametrize(("projector", "vocabulary"), [(False, False), (True, False), (False, True)])
def test_only_adapters_and_what_is_trained_in_full_change(
    base: Path, tmp_path: Path, projector: bool, vocabulary: bool
) -> None:
    trained = [ModelPart.language, *([ModelPart.projector] if projector else [])]
    config = lora_settings(base, tmp_path, trained=trained)
    config.train.lora.vocabulary = vocabulary
    config.train.precision = Precision.bf16
    config.train.activation_checkpointing = projector
    ((changed, expected, computed, written),) = on_ranks(1, changes, config)
    assert changed == expected
    assert {name.partition(".")[0] for name in changed} == {part.value for part in trained}
    in_full = {name for name in changed if name.startswith("language.") and ".lora_" not in name}
    assert in_full == (VOCABULARY if vocabulary else set())
    assert computed == written


def test_a_run_continues_the_adapter_that_it_starts_from(
    base: Path, run_of_one: tuple[Config, list[float], list[float]]
) -> None:
    config = run_of_one[0]
    latest = Run.of(config).latest()
    assert latest
    start = starting_point(config, str(latest.path / WEIGHTS))
    assert start.weights == str(base)
    assert start.adapter
    assert start.adapter.rank == 4
    other = lora_settings(base, Path(config.train.storage))
    other.train.lora.rank = 8
    with pytest.raises(UserError, match=r"has rank 4 and alpha 8; set train\.lora\.rank=4"):
        starting_point(other, str(latest.path / WEIGHTS))
