"""The batches of the training benchmark: random ids and pixels with the lengths and shapes of real samples.

A case has three samples: either text alone, a video of four frames and a tiled image, or three equal tiled
images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from lladav.config.schema import LanguageConfig, ModelConfig, TrainConfig, VisionConfig
from lladav.diffusion.masking import Noise, Stratum, corrupt, draw_noise, supervised_counts
from lladav.diffusion.training_batch import TrainingBatch
from lladav.inputs.images import ViewGeometry, prepare_image, prepare_video
from lladav.inputs.packing import pack
from lladav.inputs.samples import IGNORED, IMAGE_PLACEHOLDER, Encoded, Sample, Visual, VisualKind

TEMPLATE_IDS = 11
"""Number of supervised ids of the chat template outside the answer."""


@dataclass(frozen=True)
class Shape:
    """A sample: the kind of its image or video, and text tokens of the prompt and of two possible answers."""

    visual: str
    prompt: int
    short: int
    long: int


MIXED = Shape("none", 300, 6, 250), Shape("video", 120, 10, 120), Shape("tiled", 90, 3, 400)
EVEN = (Shape("tiled", 90, 6, 400),) * 3
CASES = {"short": (MIXED, "short"), "long": (MIXED, "long"), "even": (EVEN, "short")}


@dataclass(frozen=True)
class Setting:
    """The parameters of a measurement, the same for both sides."""

    case: str
    checkpointing: bool
    layers: int
    width: int
    vocabulary: int
    threads: int

    def model(self) -> ModelConfig:
        """A language tower with the proportions of the 8B model; the vision tower is too small to matter."""
        heads = max(1, self.width // 64)
        return ModelConfig(
            name="bench",
            language=LanguageConfig(self.vocabulary, self.width, 3 * self.width, self.layers, heads, heads),
            vision=VisionConfig(width=32, mlp_width=64, layers=2, heads=2),
        )


def make_batch(setting: Setting) -> tuple[TrainingBatch, list[Noise]]:
    """The batch of the case and the noise of each sample, with stratified noise levels."""
    packed = pack(make_samples(setting), ViewGeometry.of(setting.model()))
    counts = supervised_counts(packed)
    noises = [
        draw_noise(0, 0, str(index), count, stratum=Stratum(index, len(counts)))
        for index, count in enumerate(counts)
    ]
    mask_id = setting.vocabulary - 1
    return corrupt(packed, noises, mask_id, 1 / len(counts), TrainConfig().loss_chunk), noises


def make_samples(setting: Setting) -> list[Sample]:
    """The samples of the case."""
    shapes, answer = CASES[setting.case]
    random = np.random.default_rng(0)
    geometry = ViewGeometry.of(setting.model())
    texts = [make_text(shape, getattr(shape, answer), setting.vocabulary, random) for shape in shapes]
    visuals = [make_visuals(shape.visual, geometry, random) for shape in shapes]
    return [Sample(str(index), *parts) for index, parts in enumerate(zip(texts, visuals, strict=True))]


def make_text(shape: Shape, answer: int, vocabulary: int, random: np.random.Generator) -> Encoded:
    """The placeholder of the image, a prompt with supervised template ids, and a supervised answer."""
    ids = random.integers(0, vocabulary, shape.prompt + answer).astype(np.int32)
    labels = np.full_like(ids, IGNORED)
    template = np.linspace(1, shape.prompt - 1, TEMPLATE_IDS).astype(int)
    supervised = np.concatenate([template, np.arange(shape.prompt, len(ids))])
    labels[supervised] = ids[supervised]
    if shape.visual != "none":
        ids[0] = IMAGE_PLACEHOLDER
    return Encoded(ids, labels, np.zeros_like(ids), np.arange(len(ids)) >= shape.prompt)


def make_visuals(visual: str, geometry: ViewGeometry, random: np.random.Generator) -> list[Visual]:
    """Nothing, an image of two views (1485 tokens), or a video of four frames (840 tokens)."""
    count = {"none": 0, "tiled": 1, "video": 4}[visual]
    pixels = random.integers(0, 256, (count, 384, 384, 3), dtype=np.uint8)
    frames = [Image.fromarray(frame) for frame in pixels]
    if visual == "tiled":
        return [prepare_image(frames[0], VisualKind.tiled, geometry)]
    return [prepare_video(frames, geometry)] if frames else []
