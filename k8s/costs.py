"""Estimates the cost of each stage of the curriculum: GPU hours, GPU memory, storage.

    python -m k8s.costs

prints the table in ``k8s/README.md``. Estimates are computed from the configuration and from the assumptions
below: the length of samples, the GPU and its utilization.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "platform")]

import torch  # noqa: E402 - the path comes first

from lladav.config.loader import curriculum, load, stages_of  # noqa: E402
from lladav.config.schema import Config  # noqa: E402
from lladav.model.llada_v import LLaDAV  # noqa: E402
from train.checkpoints.sizes import (  # noqa: E402
    GRADIENT_BYTES,
    REDUCE_BUCKET,
    STATE_BYTES,
    WEIGHT_BYTES,
    checkpoint_bytes,
)
from train.trainer.flops import PEAK_TFLOPS, training_flops  # noqa: E402

GPU, MFU = "H100", 0.35
"""Assumed GPU of the overlays ``gpu`` and ``spot``, a key of ``PEAK_TFLOPS``, and its utilization; compare
``mfu`` in a run's log."""
VIEWS = {"square": 1, "tiled": 4}
"""Assumed views per sample."""
TEXT_TOKENS = {"plain": 30, "chat": 300}
"""Assumed text tokens per sample."""
MASKED_SHARE = 0.25
"""Masked share of a sample's text: noise levels are uniform, and about half of the text is supervised."""
GIB, TERA = 2**30, 1e12


@dataclass(frozen=True)
class Parameters:
    """Parameter counts of the model, of its trained parts, and of its largest layer."""

    all: int
    trained: int
    largest_layer: int


@dataclass(frozen=True)
class StageCost:
    """The estimated cost of one stage."""

    stage: str
    samples: int
    tokens: int
    """Tokens of an average sample, visual tokens included."""
    flops: float
    """FLOP of an average sample, forward and backward."""
    gpus: int
    gpu_gib: float
    """Memory of each GPU with one sample of ``stage.max_length``."""
    checkpoint_gib: float
    storage_gib: float
    """Storage of all checkpoints that are kept, and of one that is being written."""

    @property
    def gpu_hours(self) -> float:
        return self.samples * self.flops / (PEAK_TFLOPS[GPU] * TERA * MFU) / 3600

    @property
    def hours(self) -> float:
        return self.gpu_hours / self.gpus


def cost(config: Config) -> StageCost:
    """The cost of the configuration's stage."""
    parameters, tokens = parameters_of(config), sample_tokens(config)
    checkpoint = checkpoint_bytes(parameters.all, parameters.trained, config.train.precision)
    kept = config.train.keep_checkpoints + 1
    return StageCost(
        stage=config.stage.name,
        samples=(config.stage.samples or 0) * config.stage.epochs,
        tokens=tokens,
        flops=sample_flops(config, tokens),
        gpus=config.cluster.workers,
        gpu_gib=gpu_bytes(config, parameters) / GIB,
        checkpoint_gib=checkpoint / GIB,
        storage_gib=kept * checkpoint / GIB,
    )


def parameters_of(config: Config) -> Parameters:
    """Parameter counts, from a model on the meta device."""
    with torch.device("meta"):
        model = LLaDAV(config.model)
    trained = sum(p.numel() for part in config.stage.trained for p in model.part(part))
    layers = [sum(p.numel() for p in layer.parameters()) for layer in model.language.layers]
    return Parameters(sum(p.numel() for p in model.parameters()), trained, max(layers))


def sample_tokens(config: Config) -> int:
    """Tokens of an average sample: of its views and its text."""
    vision = config.model.vision
    per_view = (vision.image_size // vision.patch_size) ** 2
    return VIEWS[config.stage.images] * per_view + TEXT_TOKENS[config.stage.template]


def sample_flops(config: Config, tokens: int) -> float:
    """FLOP of an average sample, counted as in a run's log."""
    stage = config.stage
    masked = MASKED_SHARE * TEXT_TOKENS[stage.template]
    return training_flops([tokens], masked, VIEWS[stage.images], config.model, stage.trained)


def gpu_bytes(config: Config, parameters: Parameters) -> float:
    """Sharded states, two gathered layers, a gradient bucket, layer inputs, a layer's activations, logits."""
    language, length = config.model.language, config.stage.max_length
    weight = WEIGHT_BYTES[config.train.precision]
    sharded = parameters.all * weight + parameters.trained * (GRADIENT_BYTES + STATE_BYTES)
    gathered = 2 * parameters.largest_layer * weight + REDUCE_BUCKET * GRADIENT_BYTES
    inputs = language.layers * length * language.width * weight
    activations = length * (8 * language.width + 4 * language.mlp_width) * weight
    logits = 2 * config.train.loss_chunk * language.vocab_size * 4
    return sharded / config.cluster.workers + gathered + inputs + activations + logits


def stages(cluster: str = "kuberay") -> Iterator[StageCost]:
    """The costs of the 8B model's stages that the published data has, in the order of the curriculum."""
    offered = stages_of("llava")
    for stage in (stage for stage in curriculum() if stage in offered):
        yield cost(load([f"stage={stage}", "model=llada_v_8b", "data=llava", f"cluster={cluster}"]))


def table() -> str:
    """The costs as a Markdown table."""
    head = ("stage", "samples", "tokens/sample", "PFLOP/sample", "GPUs", "GPU hours", "days", "GiB/GPU")
    rows = [(*head, "GiB/checkpoint", "GiB kept"), ("---",) + ("---:",) * 9]
    for each in stages():
        rows.append(
            (
                each.stage,
                f"{each.samples:,}",
                f"{each.tokens:,}",
                f"{each.flops / 1e15:.2f}",
                str(each.gpus),
                f"{each.gpu_hours:,.0f}",
                f"{each.hours / 24:.1f}",
                f"{each.gpu_gib:.0f}",
                f"{each.checkpoint_gib:.0f}",
                f"{each.storage_gib:.0f}",
            )
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def with_table(readme: str) -> str:
    """The text of ``k8s/README.md`` with its table of costs replaced."""
    head = "| stage | samples | "
    before, _, rest = readme.partition(head)
    after = rest[rest.index("\n\n") :]
    return f"{before}{table()}{after}"


if __name__ == "__main__":
    print(table())
