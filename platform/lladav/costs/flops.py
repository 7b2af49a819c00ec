"""Model FLOPs of a micro-batch, for model FLOP utilization (MFU).

The count has matrix products and attention scores, two FLOPs for a multiply-add. A part counts its forward
pass once, once more if gradients with respect to its inputs are needed, and once more if its weights are
trained. Adapters and recomputation by activation checkpointing do not count.

    language   T * (4 W^2 (1 + kv/heads) / 2 + 3 W F) * 2 per layer, plus 4 W pairs of attention
    head       2 W V per predicted row
    vision     N P * (4 E^2 + 2 E F) * 2 per layer, plus 4 E N P^2, plus the patch embedding
    projector  N P * (E W + W^2) * 2

A sample has len^2 pairs of positions that attend to each other, under causal attention len (len + 1) / 2.
Blank views count, because the vision tower runs them.
"""

from __future__ import annotations

import time
from collections.abc import Collection

import torch

from lladav.config.schema import Attention, Config, LanguageConfig, ModelConfig, ModelPart, VisionConfig
from lladav.diffusion.training_batch import TrainingBatch
from lladav.model.vision import built_layers

PEAK_TFLOPS = {"A100": 312, "H100": 989, "H200": 989, "B200": 2250, "L40S": 362, "A10": 125}
"""Published dense bf16 peak by a part of the accelerator's name."""


USUAL_MFU = 0.35
"""The MFU that estimates assume; compare ``mfu`` in a run's log."""


def micro_batch_flops(batch: TrainingBatch, config: Config) -> float:
    """FLOPs of the forward and backward pass of one micro-batch."""
    packed = batch.packed
    return training_flops(packed.lengths, len(batch.predicted_M), len(packed.views_NCHW), config)


def training_flops(lengths: Collection[int], predicted: float, views: int, config: Config) -> float:
    """FLOPs of the forward and backward pass of packed samples with ``predicted`` predicted positions."""
    model, trained, in_full = config.model, config.stage.trained, config.trained_in_full
    language = language_flops(lengths, model.language, causal=model.attention is Attention.causal)
    head = 2 * predicted * model.language.width * model.language.vocab_size
    # The language tower needs gradients of its inputs only if a part before it is trained.
    before = ModelPart.projector in trained or ModelPart.vision in trained
    return (
        (language + head) * (1 + (before or ModelPart.language in trained) + (ModelPart.language in in_full))
        + projector_flops(views, model)
        * (1 + (ModelPart.vision in trained) + (ModelPart.projector in trained))
        + vision_flops(views, model.vision)
        * (1 + (ModelPart.vision in trained) + (ModelPart.vision in in_full))
    )


def training_hours(flops: float, gpus: int = 1) -> dict[str, float]:
    """Hours that ``flops`` take on GPUs of each kind in ``PEAK_TFLOPS``, at ``USUAL_MFU``."""
    seconds = {name: flops / (gpus * tflops * 1e12 * USUAL_MFU) for name, tflops in PEAK_TFLOPS.items()}
    return {name: each / 3600 for name, each in seconds.items()}


def language_flops(lengths: Collection[int], config: LanguageConfig, causal: bool = False) -> float:
    """Forward FLOPs of the language tower's layers over packed samples."""
    width = config.width
    projections = 2 * width * width * (1 + config.kv_heads / config.heads)
    per_token = 2 * (projections + 3 * width * config.mlp_width)
    pairs = sum(length * (length + 1) / 2 if causal else length * length for length in lengths)
    return config.layers * (sum(lengths) * per_token + 4 * width * pairs)


def vision_flops(views: int, config: VisionConfig) -> float:
    """Forward FLOPs of the vision tower's patch embedding and layers (up to ``feature_layer``)."""
    patches = (config.image_size // config.patch_size) ** 2
    width = config.width
    per_patch = 2 * (4 * width * width + 2 * width * config.mlp_width) + 4 * width * patches
    embedding = 2 * 3 * config.patch_size**2 * width
    return views * patches * (built_layers(config) * per_patch + embedding)


def projector_flops(views: int, model: ModelConfig) -> float:
    """Forward FLOPs of the projector."""
    patches = (model.vision.image_size // model.vision.patch_size) ** 2
    width = model.language.width
    return 2 * views * patches * (model.vision.width * width + width * width)


def peak_flops(device: torch.device) -> float | None:
    """Peak FLOP/s of a device: published for a GPU, None if unknown; measured for a CPU."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        known = [tflops for part, tflops in PEAK_TFLOPS.items() if part in name]
        return known[0] * 1e12 if known else None
    return _measured_flops()


def _measured_flops(size: int = 1024, repeats: int = 3) -> float:
    """The FLOP/s that a matrix product reaches on this CPU."""
    left, right = torch.rand(size, size), torch.rand(size, size)
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        torch.mm(left, right)
        seconds.append(time.perf_counter() - begin)
    return 2 * size**3 / min(seconds)
