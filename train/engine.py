"""The model under DeepSpeed ZeRO-3: building, stepping, saving and loading.

Every method is a collective: all ranks call it, in the same order. The learning rate is set from the step
before each update, so the engine holds no scheduler.
"""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from data.plan import Layout
from lladav import checkpoint
from lladav.diffusion.noise import NoisyBatch
from lladav.errors import UserError
from lladav.model.gathering import whole_shape
from lladav.model.initialize import initialize
from lladav.model.llada_v import LLaDAV
from lladav.schema import Config, Part, Precision
from train.schedule import lr_factor

os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed|deepspeed")

import deepspeed  # noqa: E402 - reads DS_ACCELERATOR when it is imported

# On a CPU, DeepSpeed would spend a minute of its first start on compiling an all-reduce; gloo has one.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


class Engine:
    """LLaDA-V sharded over the ranks, with one optimizer group for each trained part."""

    def __init__(
        self, config: Config, total_steps: int, start_from: Path | None, resized: bool = False
    ) -> None:
        """Weights come from ``start_from`` (LLaDA-V layout) or else from the configured towers.

        ``resized`` prepares for ``load`` of a checkpoint converted from another number of ranks.
        """
        self.config = config
        self.total_steps = total_steps
        settings = deepspeed_settings(config, dist.get_world_size(), resized)
        model = build_model(config, settings, start_from)
        self.model = model
        self._engine, self._optimizer, *_ = deepspeed.initialize(
            model=model, optimizer=torch.optim.AdamW(parameter_groups(model, config)), config=settings
        )
        self._base_rates = [group["lr"] for group in self._groups]

    @property
    def device(self) -> torch.device:
        """Where this rank computes."""
        return torch.device(self._engine.device or "cpu")

    @property
    def _groups(self) -> list[dict[str, Any]]:
        """The optimizer's groups; a load replaces them."""
        return self._optimizer.param_groups  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]

    def step(self, micro_batches: Sequence[NoisyBatch], step: int) -> list[Tensor]:
        """One optimizer step over the micro-batches; each one's cross-entropies of masked rows."""
        self._set_rates(step)
        entropies = []
        for batch in micro_batches:
            loss, entropy_M = self._engine(batch)
            self._engine.backward(loss)
            self._engine.step()
            entropies.append(entropy_M)
        return entropies

    def gradient_norm(self) -> float:
        """Global norm of the last step's gradient before clipping."""
        return float(self._engine.get_global_grad_norm() or 0.0)

    def rates(self) -> dict[str, float]:
        """Learning rate of each trained part at the last step."""
        names = (part.value for part in Part if part in self.config.stage.trained)
        return {name: float(group["lr"]) for name, group in zip(names, self._groups, strict=True)}

    def save(self, folder: Path) -> None:
        """This rank's shards of weights, moments and master weights into ``folder``."""
        self._engine.save_checkpoint(str(folder), tag="state", exclude_frozen_parameters=False)

    def load(self, folder: Path) -> None:
        """What ``save`` wrote with as many ranks, or its converted form where ``resized`` was set."""
        path, _ = self._engine.load_checkpoint(str(folder), tag="state", load_lr_scheduler_states=False)
        if path is None:
            raise UserError(
                f"{folder}: holds no training state; remove the checkpoint to continue from an older one"
            )
        for state in self._optimizer.state.values():  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]
            state["step"] = state["step"].clone()  # a resized load shares one: each group would count on

    def export(self, folder: Path) -> None:
        """The whole model with its tokenizer in the LLaDA-V layout, tensor by tensor; rank 0 writes."""
        model = self.config.model
        checkpoint.export(
            self.model,
            model,
            folder,
            gathered=gathered,
            writes=dist.get_rank() == 0,
            tokenizer=model.tokenizer,
        )

    def state_bytes(self) -> int:
        """Most that a checkpoint takes on one machine: weights twice, master weights and two moments."""
        whole = sum(math.prod(whole_shape(parameter)) for parameter in self.model.parameters())
        return whole * (2 * 4 + 3 * 4)

    def _set_rates(self, step: int) -> None:
        factor = lr_factor(step, self.total_steps, self.config.train.warmup_ratio)
        for group, rate in zip(self._groups, self._base_rates, strict=True):
            group["lr"] = rate * factor


def gathered(parameters: list[nn.Parameter]) -> AbstractContextManager[Any]:
    """The whole values of sharded parameters; what rank 0 writes into them goes to all ranks."""
    return deepspeed.zero.GatheredParameters(parameters, modifier_rank=0)


def build_model(config: Config, settings: dict[str, Any], start_from: Path | None) -> LLaDAV:
    """The sharded model with its initial weights, parts that the stage does not train frozen."""
    with deepspeed.zero.Init(config_dict_or_path=settings):
        model = LLaDAV(config.model)
    load_weights(model, config, start_from)
    for part in Part:
        for parameter in model.part(part):
            parameter.requires_grad_(part in config.stage.trained)
    model.checkpoint_activations(config.train.activation_checkpointing)
    return model


def load_weights(model: LLaDAV, config: Config, start_from: Path | None) -> None:
    """A LLaDA-V checkpoint where there is one, else the towers; what they lack is drawn from the seed."""
    reads = dist.get_rank() == 0
    weights = config.model.weights
    towers = [weights.llada_v] if weights.llada_v else [weights.language, weights.vision]
    loaded: set[str] = set()
    for folder in [start_from] if start_from else filter(None, towers):
        loaded |= checkpoint.load(model, folder, gathered=gathered, reads=reads)
    initialize(model, config.train.seed, skip=loaded, gathered=gathered, writes=reads)


def parameter_groups(model: LLaDAV, config: Config) -> list[dict[str, Any]]:
    """AdamW groups of the trained parts, each with its learning rate."""
    train, lr = config.train, config.stage.lr
    shared = {"weight_decay": train.weight_decay, "betas": tuple(train.betas), "eps": train.eps}
    return [
        {"name": part.value, "params": model.part(part), "lr": getattr(lr, part.value), **shared}
        for part in Part
        if part in config.stage.trained
    ]


def deepspeed_settings(config: Config, workers: int, resized: bool = False) -> dict[str, Any]:
    """DeepSpeed's own configuration; everything in it follows from ours."""
    train = config.train
    return {
        "train_micro_batch_size_per_gpu": train.micro_batch,
        "gradient_accumulation_steps": Layout.of(config, workers).slots,
        "gradient_clipping": train.clip,
        "bf16": {"enabled": train.precision is Precision.bf16},
        "zero_optimization": {
            "stage": 3,
            "overlap_comm": torch.cuda.is_available(),
            "stage3_param_persistence_threshold": train.persistence_threshold,
        },
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
        "checkpoint": {"load_universal": resized},
        "steps_per_print": 10**9,
    }
