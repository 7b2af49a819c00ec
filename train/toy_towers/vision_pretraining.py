"""How the tiny vision tower learns digits, patch by patch, before the curriculum starts.

Throwaway heads read the tower's features: which digit has its middle in the patch, which digit covers the
patch, which place it has in the row, and what its glyph looks like upright and alone (its 64 pixels). The
last says far more per patch than a class does and is what makes so small a transformer learn from few
pictures.

Shapes: N views, P patches of a view, T patches in all, W width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from data.digits import glyphs, maps
from data.digits.views import LabelledViews, labelled_views
from lladav.inputs.images import ViewGeometry
from lladav.model.vision import VisionTower
from train.toy_towers.fit import Fit, fit, shuffled

SETTINGS = Fit(steps=1600, batch=64, adam_lr=1.5e-3, muon_lr=0.015, weight_decay=0.05)
SCENES = 9000
HELD_OUT_SCENES = 600
HELD_OUT_WARP = 0.3
EMPTY_WEIGHT = 0.15
COVER_WEIGHT, PLACE_WEIGHT, GLYPH_WEIGHT = 0.5, 0.3, 2.0
CLASSES = maps.EMPTY + 1
PLACES = 3
COMPONENTS = 40
"""Principal components of the patches that the patch embedding starts from."""


class Lessons:
    """Labelled views as tensors; see ``LabelledViews`` for what they hold."""

    def __init__(self, drawn: LabelledViews) -> None:
        arrays = map(torch.from_numpy, drawn)
        self.views, self.middles, self.glyphs, self.from_left, self.from_right, self.is_base = arrays

    def __len__(self) -> int:
        return len(self.views)


class Heads(nn.Module):
    """What reads the features during the lessons, and is thrown away after them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.middle = nn.Linear(width, CLASSES)
        self.cover = nn.Linear(width, CLASSES)
        self.from_left = nn.Linear(width, PLACES)
        self.from_right = nn.Linear(width, PLACES)
        self.glyph = nn.Linear(width, glyphs.STORED_SIDE**2)


def teach(tower: VisionTower, geometry: ViewGeometry, seed: int, scale: float = 1.0) -> tuple[Heads, float]:
    """Train the tower in place on glyphs of the training pool; returns the heads, and the seconds it took.

    ``scale`` shortens the lessons (for tests).
    """
    lessons = Lessons(labelled_views(glyphs.training_pool(), round(SCENES * scale), geometry, seed))
    torch.manual_seed(seed)
    heads = Heads(tower.vision_model.config.hidden_size)
    start_from_patches(tower, lessons.views)
    loss = VisionLoss(tower, heads, lessons, SETTINGS.batch, seed)
    named = [*tower.named_parameters(), *heads.named_parameters()]
    return heads, fit("vision tower", named, SETTINGS.scaled(scale), loss)


class VisionLoss:
    """The loss of a step, as a function of the step."""

    def __init__(self, tower: VisionTower, heads: Heads, lessons: Lessons, batch: int, seed: int) -> None:
        self._tower, self._heads, self._lessons = tower, heads, lessons
        self._batch, self._seed = batch, seed
        self._targets = _glyph_targets()
        self._digit_of = torch.from_numpy(glyphs.labels())
        self._class_weights = torch.ones(CLASSES)
        self._class_weights[maps.EMPTY] = EMPTY_WEIGHT

    def __call__(self, step: int) -> Tensor:
        chosen = shuffled(len(self._lessons), self._batch, step, self._seed)
        views = recoloured(self._lessons.views[chosen], self._seed * 1_000_003 + step)
        features_TW = self._heads.norm(self._tower(views)).flatten(0, 1)
        glyph_T = self._lessons.glyphs[chosen].flatten()
        covered_T = glyph_T >= 0
        digit_T = torch.where(covered_T, self._digit_of[glyph_T.clamp(min=0)], maps.EMPTY)
        middle = cross_entropy(
            self._heads.middle(features_TW),
            self._lessons.middles[chosen].flatten(),
            self._class_weights,
            ignore_index=maps.UNSURE,
        )
        cover = cross_entropy(self._heads.cover(features_TW), digit_T)
        glyph = mse_loss(self._heads.glyph(features_TW[covered_T]), self._targets[glyph_T[covered_T]])
        place = self._place(features_TW, chosen)
        return middle + COVER_WEIGHT * cover + PLACE_WEIGHT * place + GLYPH_WEIGHT * glyph

    def _place(self, features_TW: Tensor, chosen: Tensor) -> Tensor:
        heads = (self._heads.from_left, self._heads.from_right)
        labels = (self._lessons.from_left, self._lessons.from_right)
        losses = [
            cross_entropy(head(features_TW), places[chosen].flatten(), ignore_index=maps.UNCOVERED)
            for head, places in zip(heads, labels, strict=True)
        ]
        return torch.stack(losses).sum()


def _glyph_targets() -> Tensor:
    """Pixels (1797, 64) of every glyph, less the training glyphs' mean, over their deviation.

    Held-out glyphs have rows, too, but no lesson shows one.
    """
    pixels = torch.stack([torch.from_numpy(glyphs.stored(i).flatten()) for i in range(len(glyphs.labels()))])
    known = pixels[glyphs.training_pool().indices]
    return ((pixels - known.mean(0)) / known.std()).float()


def recoloured(views: Tensor, seed: int) -> Tensor:
    """Views as float pixels (0-255), each with its own contrast, brightness and polarity."""
    generator = torch.Generator().manual_seed(seed)
    flip, stretch, shift = torch.rand(3, len(views), 1, 1, 1, generator=generator)
    centred = views.float() - 127.5
    centred = torch.where(flip < 0.5, -centred, centred) * (0.7 + 0.5 * stretch)
    return (centred + 40 * shift + 107.5).clamp(0, 255)


def start_from_patches(tower: VisionTower, views: Tensor) -> None:
    """Give the patch embedding whitened principal components, and the positions two-dimensional sinusoids."""
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
        embeddings.position_embedding.weight.copy_(
            0.5 * _sinusoids(math.isqrt(embeddings.num_patches), width)
        )


def _sinusoids(side: int, width: int) -> Tensor:
    """(side * side, width): sines and cosines of row and column."""
    rows, columns = torch.meshgrid(*[torch.arange(side).float()] * 2, indexing="ij")
    frequencies = math.pi * torch.linspace(0.5, side, width // 4) / side
    angles = [axis.flatten()[:, None] * frequencies for axis in (rows, columns)]
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)


@torch.no_grad()
def accuracy(tower: VisionTower, heads: Heads, geometry: ViewGeometry, seed: int) -> dict[str, float]:
    """Share of held-out digits told right at their middle's patch, in base views and in tiles."""
    drawn = labelled_views(glyphs.held_out_pool(), HELD_OUT_SCENES, geometry, seed + 1, HELD_OUT_WARP)
    lessons = Lessons(drawn)
    features = torch.cat([heads.norm(tower(part)) for part in lessons.views.split(256)])
    right = heads.middle(features)[..., : maps.EMPTY].argmax(-1) == lessons.middles
    is_digit = (lessons.middles >= 0) & (lessons.middles < maps.EMPTY)
    placed = heads.from_left(features).argmax(-1) == lessons.from_left
    parts = {"base views": lessons.is_base[:, None] & is_digit, "tiles": ~lessons.is_base[:, None] & is_digit}
    shares = {name: right[chosen].float().mean().item() for name, chosen in parts.items()}
    return shares | {"places": placed[parts["base views"]].float().mean().item()}
