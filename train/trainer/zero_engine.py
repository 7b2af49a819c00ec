"""The model under DeepSpeed ZeRO-3: building, stepping, saving and loading.

A docstring that begins with "Collective:" marks a method that all ranks call, in the same order; a rank that
skips one makes the others hang. One rank alone may call every other method.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from data.pipeline.plan import BatchLayout
from lladav import checkpoint
from lladav.checkpoint.adapters import Adapter
from lladav.config.schema import Config, ModelPart, Precision
from lladav.costs.sizes import checkpoint_bytes, reduce_bucket, staged_bytes
from lladav.diffusion.training_batch import PredictedPositions, TrainingBatch
from lladav.model.initialization import initialize
from lladav.model.llada_v import LLaDAV
from lladav.model.lora import add_lora, lora_parameters
from lladav.model.sharding import Gather, full_shape
from lladav.model.trained_parameters import trained_parameters
from lladav.storage import AnyPath
from train.trainer.lr_schedule import lr_factor
from train.trainer.starting_point import starting_point

os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed|deepspeed")

# DeepSpeed's autotuner, which is not used here, imports MLflow if it is installed: half a second. None in
# sys.modules makes an import fail.
if hide_mlflow := "mlflow" not in sys.modules:
    sys.modules["mlflow"] = None  # pyright: ignore[reportArgumentType]
import deepspeed  # noqa: E402 - reads DS_ACCELERATOR when it is imported
from deepspeed.runtime import compiler  # noqa: E402
from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus  # noqa: E402

if hide_mlflow:
    del sys.modules["mlflow"]

from train.checkpoints import optimizer_state  # noqa: E402 - imports deepspeed

# On a CPU, DeepSpeed would compile its own all-reduce for a minute at its first start; gloo has one.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
# ZeRO-3 imports DeepSpeed's Muon, which is not used here and would spend a second on torch's compiler.
compiler.compile = lambda: lambda function: function


class ZeroEngine:
    """LLaDA-V sharded over the ranks, with one optimizer group for each trained part.

    There is no scheduler object: each step sets the learning rates from its number.
    """

    def __init__(self, config: Config, total_steps: int, start_from: str | None) -> None:
        """Collective: weights come from ``start_from`` (LLaDA-V layout, or an adapter) or from the towers."""
        self.config = config
        self.total_steps = total_steps
        self.rank, self.workers = dist.get_rank(), dist.get_world_size()
        settings = deepspeed_settings(config, self.workers)
        start = starting_point(config, start_from)
        self._base = start.base
        model = build_model(config, settings)
        load_weights(model, config, start.weights)
        if start.base:
            add_adapters(model, config, settings, start.adapter)
        self.model = model
        # A buffer of this size is allocated: for an adapter the default would be most of its training state.
        bucket = reduce_bucket(_elements(self._trained().values()))
        settings["zero_optimization"]["reduce_bucket_size"] = bucket
        self._engine, self._optimizer, *_ = deepspeed.initialize(
            model=model, optimizer=torch.optim.AdamW(parameter_groups(model, config)), config=settings
        )
        self._base_rates = [group["lr"] for group in self._groups]

    @property
    def device(self) -> torch.device:
        """The device of this rank."""
        return torch.device(self._engine.device or "cpu")

    @property
    def _groups(self) -> list[dict[str, Any]]:
        return self._optimizer.param_groups  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]

    def step(self, micro_batches: Sequence[TrainingBatch], step: int) -> list[Tensor]:
        """Collective: one optimizer step over the micro-batches, as many on every rank.

        Returns the cross-entropy of each predicted position, by micro-batch.
        """
        factor = lr_factor(step, self.total_steps, self.config.train.warmup_ratio)
        for group, rate in zip(self._groups, self._base_rates, strict=True):
            group["lr"] = rate * factor
        entropies = []
        for number, batch in enumerate(micro_batches):
            if self.config.adapted and self.config.train.lora.dropout:
                torch.manual_seed(dropout_seed(self.config.train.seed, step, number, self.rank))
            loss, entropy_M = self._engine(batch)  # gathers each layer's weights in turn
            self._engine.backward(loss)  # gathers them again and reduces the gradients
            self._engine.step()  # updates the weights after the last micro-batch of a step only
            entropies.append(entropy_M)
        return entropies

    @contextmanager
    def evaluating(self) -> Iterator[Callable[[TrainingBatch | PredictedPositions], Any]]:
        """Inside the block, a function runs the model as in inference, without dropout and gradients.

        Each of its calls is a collective. It returns what ``LLaDAV.forward`` does.
        """
        self._engine.eval()
        try:
            with torch.no_grad():
                yield self._engine
        finally:
            self._engine.train()

    def gradient_norm(self) -> float:
        """Global norm of the last step's gradient before clipping, which DeepSpeed has kept."""
        return float(self._engine.get_global_grad_norm() or 0.0)

    def learning_rates(self) -> dict[str, float]:
        """Learning rate of each trained part in the last step."""
        names = (part.value for part in ModelPart if part in self.config.stage.trained)
        return {name: float(group["lr"]) for name, group in zip(names, self._groups, strict=True)}

    def save(self, folder: Path) -> None:
        """Write this rank's float32 master weights and AdamW moments; raises ``OSError``.

        ``export`` writes the weights.
        """
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / optimizer_state.shard_name(self.rank, self.workers)
        optimizer_state.write(self._trained(), file, self.rank, self.workers)

    def load(self, folder: AnyPath, workers: int, step: int) -> None:
        """Load this rank's part of the state that ``workers`` ranks saved after ``step`` steps."""
        saved = optimizer_state.SavedState(folder, workers)
        optimizer_state.read(self._optimizer, self._trained(), saved, step, self.rank, self.workers)

    def export(self, folder: Path) -> None:
        """Collective: gather the weights tensor by tensor; rank 0 writes them.

        Without adapters the whole model in the LLaDA-V layout, with adapters the trained parameters alone.
        """
        model = self.config.model
        gather: Gather = only_shard if self.workers == 1 else deepspeed.zero.GatheredParameters
        shared = {"gather": gather, "writes": self.rank == 0, "tokenizer": model.tokenizer}
        if self._base is None:
            checkpoint.export(self.model, model, folder, **shared)
        else:
            lora = self.config.train.lora
            checkpoint.export_adapter(self._trained(), model, lora, self._base, folder, **shared)

    def checkpoint_bytes(self) -> int:
        """Bytes of a checkpoint over all ranks."""
        return checkpoint_bytes(*self._sizes(), self.config.train.precision)

    def staged_bytes(self) -> int:
        """Upper bound of the bytes that one machine writes for a checkpoint."""
        ranks = int(os.environ.get("LOCAL_WORLD_SIZE", self.workers))
        return staged_bytes(*self._sizes(), self.config.train.precision, self.workers, ranks)

    def _sizes(self) -> tuple[int, int]:
        """Number of elements of the exported parameters and of the trained ones, over all ranks."""
        trained = _elements(self._trained().values())
        return (_elements(self.model.parameters()) if self._base is None else trained), trained

    def _trained(self) -> dict[str, nn.Parameter]:
        """The trained parameters by name."""
        parts = trained_parameters(self.model, self.config).values()
        trained = {id(parameter) for part in parts for parameter in part}
        return {name: p for name, p in self.model.named_parameters() if id(p) in trained}


def _elements(parameters: Iterable[nn.Parameter]) -> int:
    """Total elements of parameters before sharding."""
    return sum(math.prod(full_shape(parameter)) for parameter in parameters)


def gathered(parameters: list[nn.Parameter]) -> AbstractContextManager[Any]:
    """Collective: inside the block, parameters hold their full values; all ranks get what rank 0 writes."""
    return deepspeed.zero.GatheredParameters(parameters, modifier_rank=0)


@contextmanager
def only_shard(parameters: list[nn.Parameter]) -> Iterator[None]:
    """Inside the block, parameters of the only rank hold their full values, to be read and not written.

    They are views of the rank's shards. DeepSpeed would copy a single parameter twice: 2 GB for the token
    embedding of LLaDA-8B.
    """
    released = [p for p in parameters if p.ds_status is ZeroParamStatus.NOT_AVAILABLE]  # pyright: ignore[reportAttributeAccessIssue]
    for parameter in released:
        parameter.data = parameter.ds_tensor.data[: parameter.ds_numel].view(parameter.ds_shape)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        for parameter in released:
            parameter.data = torch.empty(0, dtype=parameter.dtype, device=parameter.device)


def build_model(config: Config, settings: dict[str, Any]) -> LLaDAV:
    """Collective: build the sharded model and freeze the parts whose own weights do not learn."""
    with deepspeed.zero.Init(config_dict_or_path=settings):
        model = LLaDAV(config.model)
    for part in ModelPart:
        for parameter in model.part(part):
            parameter.requires_grad_(part in config.trained_in_full)
    for parameter in model.vocabulary() if config.trains_vocabulary else []:
        parameter.requires_grad_(True)
    model.checkpoint_activations(config.train.activation_checkpointing)
    return model


def load_weights(model: LLaDAV, config: Config, start_from: str | None) -> None:
    """Collective: load a LLaDA-V checkpoint or the towers; draw missing tensors from the seed."""
    reads = dist.get_rank() == 0
    weights = config.model.weights
    towers = [weights.llada_v] if weights.llada_v else [weights.language, weights.vision]
    loaded: set[str] = set()
    for folder in [start_from] if start_from else filter(None, towers):
        loaded |= checkpoint.load(model, folder, gather=gathered, reads=reads)
    initialize(model, config.train.seed, skip=loaded, gather=gathered, writes=reads)


def add_adapters(model: LLaDAV, config: Config, settings: dict[str, Any], start: Adapter | None) -> None:
    """Collective: add sharded adapters with the values of ``start``, or with values drawn from the seed."""
    reads = dist.get_rank() == 0
    with deepspeed.zero.Init(config_dict_or_path=settings):
        add_lora(model, config.train.lora, config.adapted)
    loaded = checkpoint.load_adapter(model, start, gather=gathered, reads=reads) if start else set()
    new = lora_parameters(model).items()
    initialize(new, config.train.seed, skip=loaded, gather=gathered, writes=reads)


def parameter_groups(model: LLaDAV, config: Config) -> list[dict[str, Any]]:
    """One AdamW group for each trained part, with its learning rate."""
    train, lr = config.train, config.stage.lr
    shared = {"weight_decay": train.weight_decay, "betas": tuple(train.betas), "eps": train.eps}
    rates = {part: train.lora.lr if part in config.adapted else getattr(lr, part) for part in ModelPart}
    return [
        {"name": part.value, "params": parameters, "lr": rates[part], **shared}
        for part, parameters in trained_parameters(model, config).items()
    ]


def dropout_seed(seed: int, step: int, micro_batch: int, rank: int) -> int:
    """The seed of a micro-batch's dropout. A resumed run draws the same, with the same number of ranks."""
    digest = hashlib.blake2b(f"{seed}/{step}/{micro_batch}/{rank}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def deepspeed_settings(config: Config, workers: int) -> dict[str, Any]:
    """DeepSpeed's configuration."""
    train = config.train
    return {
        "train_micro_batch_size_per_gpu": train.micro_batch,
        "gradient_accumulation_steps": BatchLayout.of(config, workers).accumulation_steps,
        "gradient_clipping": train.clip,
        "bf16": {"enabled": train.precision is Precision.bf16},
        # By default DeepSpeed sums gradients over ranks and micro-batches in the format of the weights; in
        # bf16 that loses 0.6 % of a gradient over 32 micro-batches.
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "zero_optimization": {
            "stage": 3,
            "overlap_comm": torch.cuda.is_available(),
            "stage3_param_persistence_threshold": train.persistence_threshold,
        },
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
    }
