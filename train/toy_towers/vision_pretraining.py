"""Pretraining of the tiny vision tower: it learns to recognize digits, patch by patch.

Temporary heads predict from the features of each patch: the digit whose center is in the patch, the digit
that covers the patch, the position of that digit in its row, and the 64 pixels of its upright glyph. The
pixels carry far more information per patch than a class; without them, so small a transformer does not learn
from so few images.

Shapes: N views, P patches per view, T patches in total, W width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from data.digits import glyphs, maps
from data.digits.questions import Split
from data.digits.views import LabelledViews, labelled_views
from lladav.inputs.images import ViewGeometry
from lladav.model.vision import VisionTower
from train.toy_towers.fit import Fit, fit, shuffled

SETTINGS = Fit(steps=1600, batch=64, adam_lr=1.5e-3, muon_lr=0.015, weight_decay=0.05)
SCENES = 9000
HELD_OUT_SCENES = 600
HELD_OUT_WARP = 0.3
EMPTY_WEIGHT = 0.15
COVER_WEIGHT, POSITION_WEIGHT, GLYPH_WEIGHT = 0.5, 0.3, 2.0
CLASSES = maps.EMPTY + 1
POSITIONS = 3
"""Classes of a digit's position in its row, counted from either end."""
COMPONENTS = 40
"""Principal components of patches in the initial patch embedding."""


class ViewTensors:
    """The fields of ``LabelledViews`` as tensors."""

    def __init__(self, drawn: LabelledViews) -> None:
        arrays = map(torch.from_numpy, drawn)
        self.views, self.middles, self.glyphs, self.from_left, self.from_right, self.is_base = arrays

    def __len__(self) -> int:
        return len(self.views)


class Heads(nn.Module):
    """The heads of the pretraining tasks; they are discarded afterwards."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.middle = nn.Linear(width, CLASSES)
        self.cover = nn.Linear(width, CLASSES)
        self.from_left = nn.Linear(width, POSITIONS)
        self.from_right = nn.Linear(width, POSITIONS)
        self.glyph = nn.Linear(width, glyphs.STORED_SIDE**2)


def pretrain(
    tower: VisionTower, geometry: ViewGeometry, seed: int, scale: float = 1.0
) -> tuple[Heads, float]:
    """Train the tower in place on glyphs of the training pool; return the heads and the seconds it took.

    ``scale`` shortens the pretraining (for tests).
    """
    views = ViewTensors(labelled_views(glyphs.training_pool(), round(SCENES * scale), geometry, seed))
    torch.manual_seed(seed)
    heads = Heads(tower.vision_model.post_layernorm.normalized_shape[0])
    initialize_embeddings(tower, views.views)
    settings = SETTINGS.scaled(scale)
    loss = VisionLoss(tower, heads, views, settings.batch, seed)
    named = [*tower.named_parameters(), *heads.named_parameters()]
    return heads, fit("vision tower", named, settings, loss)


class VisionLoss:
    """The loss of a step, as a function of the step."""

    def __init__(self, tower: VisionTower, heads: Heads, views: ViewTensors, batch: int, seed: int) -> None:
        self._tower, self._heads, self._data = tower, heads, views
        self._batch, self._seed = batch, seed
        self._targets = _glyph_targets()
        self._digit_of = torch.from_numpy(glyphs.labels())
        self._class_weights = torch.ones(CLASSES)
        self._class_weights[maps.EMPTY] = EMPTY_WEIGHT

    def __call__(self, step: int) -> Tensor:
        chosen = shuffled(len(self._data), self._batch, step, self._seed)
        views = recoloured(self._data.views[chosen], self._seed * 1_000_003 + step)
        features_TW = self._heads.norm(self._tower(views)).flatten(0, 1)
        glyph_T = self._data.glyphs[chosen].flatten()
        covered_T = glyph_T >= 0
        digit_T = torch.where(covered_T, self._digit_of[glyph_T.clamp(min=0)], maps.EMPTY)
        middle = cross_entropy(
            self._heads.middle(features_TW),
            self._data.middles[chosen].flatten(),
            self._class_weights,
            ignore_index=maps.UNSURE,
        )
        cover = cross_entropy(self._heads.cover(features_TW), digit_T)
        glyph = mse_loss(self._heads.glyph(features_TW[covered_T]), self._targets[glyph_T[covered_T]])
        position = self._position_loss(features_TW, chosen)
        return middle + COVER_WEIGHT * cover + POSITION_WEIGHT * position + GLYPH_WEIGHT * glyph

    def _position_loss(self, features_TW: Tensor, chosen: Tensor) -> Tensor:
        heads = (self._heads.from_left, self._heads.from_right)
        labels = (self._data.from_left, self._data.from_right)
        losses = [
            cross_entropy(head(features_TW), positions[chosen].flatten(), ignore_index=maps.UNCOVERED)
            for head, positions in zip(heads, labels, strict=True)
        ]
        return torch.stack(losses).sum()


def _glyph_targets() -> Tensor:
    """Pixels (1797, 64) of every glyph, normalized with mean and deviation of the training glyphs.

    Held-out glyphs have rows too, but no training view shows one.
    """
    pixels = torch.stack([torch.from_numpy(glyphs.stored(i).flatten()) for i in range(len(glyphs.labels()))])
    training = pixels[glyphs.training_pool().indices]
    return ((pixels - training.mean(0)) / training.std()).float()


def recoloured(views: Tensor, seed: int) -> Tensor:
    """Views as float pixels (0-255) with a random contrast, brightness and polarity per view."""
    generator = torch.Generator().manual_seed(seed)
    flip, stretch, shift = torch.rand(3, len(views), 1, 1, 1, generator=generator)
    centred = views.float() - 127.5
    centred = torch.where(flip < 0.5, -centred, centred) * (0.7 + 0.5 * stretch)
    return (centred + 40 * shift + 107.5).clamp(0, 255)


def initialize_embeddings(tower: VisionTower, views: Tensor) -> None:
    """Set the patch embedding to whitened principal components and the positions to 2-D sinusoids."""
    embeddings = tower.vision_model.embeddings
    width, _, size, _ = embeddings.patch_embedding.weight.shape
    grey = (views[:4000].float().mean(1) - 127.5) / 127.5
    patches = grey.unfold(1, size, size).unfold(2, size, size).reshape(-1, size * size)
    patches = patches[patches.std(1) > 0.12]
    patches = patches - patches.mean(1, keepdim=True)
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    values, vectors = values.flip(0)[:COMPONENTS], vectors.flip(1)[:, :COMPONENTS]
    whitened = (vectors / (values + 0.01 * values[0]).sqrt()).T
    spread = torch.linalg.qr(torch.randn(width, len(whitened)))[0] * (width / len(whitened)) ** 0.5
    filters = 0.5 * (spread @ whitened).reshape(width, 1, size, size) / 3
    with torch.no_grad():
        embeddings.patch_embedding.weight.copy_(filters.expand(-1, 3, -1, -1))
        positions_PE = embeddings.position_embedding.weight
        positions_PE.copy_(0.5 * _sinusoids(math.isqrt(len(positions_PE)), width))


def _sinusoids(side: int, width: int) -> Tensor:
    """Sines and cosines of row and column, (side * side, width)."""
    rows, columns = torch.meshgrid(*[torch.arange(side).float()] * 2, indexing="ij")
    frequencies = math.pi * torch.linspace(0.5, side, width // 4) / side
    angles = [axis.flatten()[:, None] * frequencies for axis in (rows, columns)]
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)


@torch.no_grad()
def accuracy(
    tower: VisionTower, heads: Heads, geometry: ViewGeometry, seed: int, scale: float = 1.0
) -> dict[str, float]:
    """Accuracy on held-out glyphs: digits in base views and in tiles, and digit positions in base views."""
    scenes = round(HELD_OUT_SCENES * scale)
    pool = glyphs.held_out_pool(Split.validation)
    data = ViewTensors(labelled_views(pool, scenes, geometry, seed + 1, HELD_OUT_WARP))
    features = torch.cat([heads.norm(tower(part)) for part in data.views.split(256)])
    right = heads.middle(features)[..., : maps.EMPTY].argmax(-1) == data.middles
    is_digit = (data.middles >= 0) & (data.middles < maps.EMPTY)
    positioned = heads.from_left(features).argmax(-1) == data.from_left
    is_base = data.is_base[:, None]
    parts = {"in base views": is_base & is_digit, "in tiles": ~is_base & is_digit}
    accuracies = {name: right[chosen].float().mean().item() for name, chosen in parts.items()}
    return accuracies | {"of positions": positioned[is_base & is_digit].float().mean().item()}
