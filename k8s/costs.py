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

from lladav.config.loader import curriculum, load, stages_of  # noqa: E402 - the path comes first
from lladav.config.schema import Config  # noqa: E402
from lladav.costs.flops import training_flops, training_hours  # noqa: E402
from lladav.costs.memory import gpu_memory, parameter_counts  # noqa: E402
from lladav.costs.sizes import checkpoint_bytes  # noqa: E402

GPU = "H100"
"""Assumed GPU of the overlays ``gpu`` and ``spot``, a key of ``PEAK_TFLOPS``."""
VIEWS = {"square": 1, "tiled": 4}
"""Assumed views per sample."""
TEXT_TOKENS = {"plain": 30, "chat": 300}
"""Assumed text tokens per sample."""
MASKED_SHARE = 0.25
"""Masked share of a sample's text: noise levels are uniform, and about half of the text is supervised."""
GIB = 2**30


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
        return training_hours(self.samples * self.flops)[GPU]

    @property
    def hours(self) -> float:
        return self.gpu_hours / self.gpus


def cost(config: Config) -> StageCost:
    """The cost of the configuration's stage."""
    parameters, tokens = parameter_counts(config), sample_tokens(config)
    checkpoint = checkpoint_bytes(parameters.exported, parameters.trained, config.train.precision)
    kept = config.train.keep_checkpoints + 1
    return StageCost(
        stage=config.stage.name,
        samples=(config.stage.samples or 0) * config.stage.epochs,
        tokens=tokens,
        flops=sample_flops(config, tokens),
        gpus=config.cluster.workers,
        gpu_gib=gpu_memory(config).total / GIB,
        checkpoint_gib=checkpoint / GIB,
        storage_gib=kept * checkpoint / GIB,
    )


def sample_tokens(config: Config) -> int:
    """Tokens of an average sample: of its views and its text."""
    vision = config.model.vision
    per_view = (vision.image_size // vision.patch_size) ** 2
    return VIEWS[config.stage.images] * per_view + TEXT_TOKENS[config.stage.template]


def sample_flops(config: Config, tokens: int) -> float:
    """FLOP of an average sample, counted as in a run's log."""
    stage = config.stage
    masked = MASKED_SHARE * TEXT_TOKENS[stage.template]
    return training_flops([tokens], masked, VIEWS[stage.images], config)


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
