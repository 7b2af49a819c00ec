"""Prompts as embeddings, with the visual tokens of images that come again kept.

Visual tokens depend on their own image alone, so that reuse is exact; keys and values of a prompt would not
be: under bidirectional attention they depend on the whole sequence.

Shapes: P positions of a prompt, V visual tokens of an item, W width.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from lladav.decoding.errors import NotFiniteError
from lladav.inputs.chat import IMAGE_MARK, SYSTEM_PROMPT, ChatTokenizer, Message, encode_prompt
from lladav.inputs.images import ViewGeometry, token_count
from lladav.inputs.packing import expand_placeholders
from lladav.inputs.types import IMAGE_PLACEHOLDER, Sample, Visual
from lladav.model.llada_v import LLaDAV
from lladav.model.numerics import is_finite


def prompt_length(prompt: Sample, geometry: ViewGeometry) -> int:
    """Positions of a prompt, visual tokens included."""
    text = int((prompt.text.input_ids != IMAGE_PLACEHOLDER).sum())
    return text + sum(token_count(visual.shape, geometry) for visual in prompt.visuals)


def question_prompt(name: str, text: str, visuals: Sequence[Visual], tokenizer: ChatTokenizer) -> Sample:
    """A question as the training conversations put it: system turn, image marks, then the text."""
    content = f"{IMAGE_MARK}\n" * len(visuals) + text
    messages = [Message("system", SYSTEM_PROMPT), Message("user", content)]
    return Sample(name, encode_prompt(messages, tokenizer), list(visuals))


class PromptEncoder:
    """The model's embeddings of prompts, and a cache of visual tokens by content within a budget of bytes."""

    def __init__(self, model: LLaDAV, budget: int) -> None:
        self._model = model
        self._budget = budget
        self._kept: OrderedDict[bytes, Tensor] = OrderedDict()
        self._bytes = 0
        self.hits = self.misses = 0

    @torch.no_grad()
    def encode(self, prompt: Sample) -> tuple[Tensor, Tensor]:
        """Embeddings (P, W) and turns (P).

        Raises ``UserError`` where marks and images do not pair up, and ``NotFiniteError``.
        """
        device = self._model.newline.device
        expanded = expand_placeholders(prompt, self._model.geometry)
        embeddings_PW = self._model.language.embed_tokens(torch.from_numpy(expanded.ids).to(device))
        if prompt.visuals:
            places = torch.from_numpy(expanded.visual.nonzero()[0]).to(device)
            embeddings_PW[places] = torch.cat([self._visual_tokens(visual) for visual in prompt.visuals])
        return embeddings_PW, torch.from_numpy(expanded.turns).to(device)

    @torch.no_grad()
    def blind(self, length: int) -> Tensor:
        """Embeddings (P, W) of a prompt that says nothing: masks alone."""
        mask = torch.tensor(self._model.config.tokens.mask, device=self._model.newline.device)
        return self._model.language.embed_tokens(mask).expand(length, -1)

    def _visual_tokens(self, visual: Visual) -> Tensor:
        key = _content(visual)
        if (kept := self._kept.get(key)) is not None:
            self._kept.move_to_end(key)
            self.hits += 1
            return kept
        self.misses += 1
        views = torch.from_numpy(visual.views).to(self._model.newline.device)
        tokens_VW = self._model.visual_tokens(views, [visual.shape])
        if not is_finite(tokens_VW):
            raise NotFiniteError("features of an image", tokens_VW.dtype)
        self._keep(key, tokens_VW)
        return tokens_VW

    def _keep(self, key: bytes, tokens_VW: Tensor) -> None:
        """Remember, and forget what was not asked for longest."""
        if tokens_VW.nbytes > self._budget:
            return
        self._kept[key] = tokens_VW
        self._bytes += tokens_VW.nbytes
        while self._bytes > self._budget:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes


def _content(visual: Visual) -> bytes:
    digest = hashlib.blake2b(visual.views.tobytes(), digest_size=16)
    digest.update(f"{visual.shape}/{visual.views.shape}".encode())
    return digest.digest()
