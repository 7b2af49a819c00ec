"""The memory of each GPU in training, computed from the settings.

A test compares it with what the allocator counts in a step of a small model on one worker. Not included: the
CUDA context, workspaces of libraries, and fragmentation.

Shapes: T tokens of a micro-batch, N views, P patches of a view; W width of the language tower, F of its MLP,
E of the vision tower.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch

from lladav.config.schema import Config, ModelPart
from lladav.costs.sizes import GRADIENT_BYTES, STATE_BYTES, WEIGHT_BYTES, reduce_bucket
from lladav.model.llada_v import LLaDAV
from lladav.model.lora import add_lora
from lladav.model.trained_parameters import trained_parameters
from lladav.model.vision import built_layers

LIVE_PARAMETERS = 1_000_000_000
"""Elements that DeepSpeed keeps gathered from other workers at most, its ``stage3_max_live_parameters``."""
SUB_GROUP = 1_000_000_000
"""Elements that DeepSpeed updates together at most, its ``sub_group_size``."""
UPDATE_BYTES = 12
"""Bytes per updated element: a copy of its gradient, and two temporaries of AdamW."""
GIB = 2**30
LOGIT_BYTES = 8
"""Bytes per logit of a chunk: the projection, its float32 copy, and the gradient."""


@dataclass(frozen=True)
class ParameterCounts:
    """Parameters of the model with its adapters, and of the parts that learn."""

    all: int
    trained: int
    exported: int
    """Parameters that a checkpoint has as weights: with adapters only the trained ones."""


@dataclass(frozen=True)
class GpuMemory:
    """Bytes of a GPU by their purpose."""

    weights: float
    """This worker's shard of all weights."""
    training_state: float
    """Its shard of gradients, master weights and moments of the trained parameters."""
    gathered: float
    """Weights of other workers, and the bucket in which gradients are reduced."""
    activations: float
    """Inputs of the layers, kept for the backward pass, and the larger of: activations of one recomputed
    layer; logits of a chunk, with the gradient of the head."""
    update: float
    """Temporaries of AdamW, which exist when the activations are gone."""

    @property
    def total(self) -> float:
        """Bytes at the peak of a step."""
        return self.weights + self.training_state + self.gathered + max(self.activations, self.update)

    def __str__(self) -> str:
        terms = [f"{name.replace('_', ' ')} {size / GIB:.1f}" for name, size in asdict(self).items()]
        return f"memory of each GPU: about {self.total / GIB:.1f} GiB ({', '.join(terms)})"


def parameter_counts(config: Config) -> ParameterCounts:
    """Count parameters on the meta device."""
    with torch.device("meta"):
        model = LLaDAV(config.model)
        add_lora(model, config.train.lora, config.adapted)
    parts = trained_parameters(model, config).values()
    trained = sum(parameter.numel() for part in parts for parameter in part)
    total = sum(parameter.numel() for parameter in model.parameters())
    return ParameterCounts(total, trained, trained if config.adapted else total)


def gpu_memory(config: Config, tokens: int | None = None, views: int | None = None) -> GpuMemory:
    """The memory for micro-batches with this many tokens and views.

    By default one sample of ``stage.max_length`` that consists of views.
    """
    counts, workers = parameter_counts(config), config.cluster.workers
    weight = WEIGHT_BYTES[config.train.precision]
    tokens = tokens or config.stage.max_length
    views = views or max(1, tokens // _patches(config))
    gathered = min(counts.all, LIVE_PARAMETERS) * weight if workers > 1 else 0
    return GpuMemory(
        weights=counts.all * weight / workers,
        training_state=counts.trained * (GRADIENT_BYTES + STATE_BYTES) / workers,
        gathered=gathered + reduce_bucket(counts.trained) * GRADIENT_BYTES,
        activations=_kept(config, tokens, views) * weight
        + max(_layer(config, tokens) * weight, _head(config, weight)),
        update=UPDATE_BYTES * min(counts.trained / workers, SUB_GROUP),
    )


def _patches(config: Config) -> int:
    return (config.model.vision.image_size // config.model.vision.patch_size) ** 2


def _kept(config: Config, tokens: int, views: int) -> int:
    """Elements: layers T W, and of a trained vision tower layers N P E, of a trained projector 2 N P W."""
    language, vision, trained = config.model.language, config.model.vision, config.stage.trained
    patches = views * _patches(config)
    kept = language.layers * tokens * language.width
    if ModelPart.vision in trained:
        kept += built_layers(vision) * patches * vision.width
    if ModelPart.projector in trained or ModelPart.vision in trained:
        kept += 2 * patches * language.width
    return kept


def _layer(config: Config, tokens: int) -> int:
    """Elements of a layer in its backward pass: T (14 W + 5 F), norms in float32 and temporaries included."""
    language = config.model.language
    return tokens * (14 * language.width + 5 * language.mlp_width)


def _head(config: Config, weight: int) -> int:
    """Bytes of the logits of a chunk, and of the head's gradient if the head learns."""
    language = config.model.language
    logits = config.train.loss_chunk * language.vocab_size * LOGIT_BYTES
    learns = ModelPart.language in config.trained_in_full or config.trains_vocabulary
    return logits + learns * language.vocab_size * language.width * weight
