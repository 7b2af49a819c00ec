"""Embeddings of prompts, with a cache of visual tokens for images that are used again.

Visual tokens depend only on their own image and on the adapter, so reuse is exact. Keys and values of a
prompt are not reused across requests: under bidirectional attention they depend on the whole sequence.

Shapes: P positions of a prompt, V visual tokens of an item, W width.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor

from lladav.decoding.errors import NotFiniteError
from lladav.inputs.packing import expand_placeholders
from lladav.inputs.samples import Sample, Visual
from lladav.model.llada_v import LLaDAV
from lladav.model.numerics import is_finite


class PromptEncoder:
    """Embeds prompts; visual tokens are cached by content within a budget of bytes."""

    def __init__(self, model: LLaDAV, budget: int, visual_models: Mapping[str, LLaDAV] | None = None) -> None:
        """``visual_models`` encode the images of the adapters that change visual tokens, by name."""
        self._model, self._visual_models = model, visual_models or {}
        self._budget = budget
        self._cache: OrderedDict[tuple[str | None, bytes], Tensor] = OrderedDict()
        """Visual tokens by adapter, if it changes them, and by content; the least recently used first."""
        self._bytes = 0
        self.hits = self.misses = 0

    @torch.no_grad()
    def encode(self, prompt: Sample, adapter: str | None = None) -> tuple[Tensor, Tensor]:
        """Embeddings (P, W) and turns (P), for the model with an adapter or for the base.

        Raises ``UserError`` if the number of image marks is not that of images, and ``NotFiniteError``.
        """
        device = self._model.newline.device
        expanded = expand_placeholders(prompt, self._model.geometry)
        embeddings_PW = self._model.language.embed_tokens(torch.from_numpy(expanded.ids).to(device))
        if prompt.visuals:
            positions = torch.from_numpy(expanded.visual.nonzero()[0]).to(device)
            tokens = [self._visual_tokens(visual, adapter) for visual in prompt.visuals]
            embeddings_PW[positions] = torch.cat(tokens)
        return embeddings_PW, torch.from_numpy(expanded.turns).to(device)

    @torch.no_grad()
    def unconditional(self, length: int) -> Tensor:
        """Embeddings (P, W) of a prompt of masks, for the unconditional branch of guidance."""
        mask = torch.tensor(self._model.config.tokens.mask_id, device=self._model.newline.device)
        return self._model.language.embed_tokens(mask).expand(length, -1)

    def _visual_tokens(self, visual: Visual, adapter: str | None) -> Tensor:
        adapter = adapter if adapter in self._visual_models else None  # others have the base's visual tokens
        key = adapter, _content_hash(visual)
        if (cached := self._cache.get(key)) is not None:
            self._cache.move_to_end(key)
            self.hits += 1
            return cached
        self.misses += 1
        views = torch.from_numpy(visual.views).to(self._model.newline.device)
        model = self._model if adapter is None else self._visual_models[adapter]
        tokens_VW = model.visual_tokens(views, [visual.shape])
        if not is_finite(tokens_VW):
            raise NotFiniteError("features of an image", tokens_VW.dtype)
        self._store(key, tokens_VW)
        return tokens_VW

    def _store(self, key: tuple[str | None, bytes], tokens_VW: Tensor) -> None:
        """Cache visual tokens, and evict the least recently used ones above the budget."""
        if tokens_VW.nbytes > self._budget:
            return
        self._cache[key] = tokens_VW
        self._bytes += tokens_VW.nbytes
        while self._bytes > self._budget:
            self._bytes -= self._cache.popitem(last=False)[1].nbytes


def _content_hash(visual: Visual) -> bytes:
    digest = hashlib.blake2b(visual.views.tobytes(), digest_size=16)
    digest.update(f"{visual.shape}/{visual.views.shape}".encode())
    return digest.digest()
