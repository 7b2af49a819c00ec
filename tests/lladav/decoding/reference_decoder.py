"""A plain transcription of the published refresh-interval decoder: the reference for answers and for speed.

One request, logits of every forwarded position in float32, their softmax in float64, keys and values
concatenated layer by layer, and a device-to-host copy for every stop position: as released, with its waste.

Shapes: P positions of the prompt, G of the canvas, N forwarded positions, V vocabulary, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lladav.model.attention import attend_once
from lladav.model.language import rotary_factors
from lladav.model.llada_v import LLaDAV


@dataclass(frozen=True)
class ReferenceAnswer:
    """Tokens up to the stop and the suffix; number of forwards, and of positions that they forwarded."""

    tokens: list[int]
    forwards: int
    positions: int


class PrefixCache:
    """Keys and values before the block, from the last refresh."""

    def __init__(self) -> None:
        self.cached: dict[int, tuple[Tensor, Tensor]] = {}
        self.cache_until: int | None = None

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if self.cache_until is not None:
            self.cached[layer] = key[: self.cache_until].clone(), value[: self.cache_until].clone()
        else:
            key, value = (torch.cat(pair) for pair in zip(self.cached[layer], (key, value), strict=True))
        return attend_once(query, key, value, None)


@torch.no_grad()
def reference_decode(
    model: LLaDAV,
    prompt_PW: Tensor,
    *,
    gen_length: int,
    block_length: int,
    steps: int,
    refresh_interval: int = 1,
    factor: float | None = None,
    stop: Sequence[int] = (),
    suffix: Sequence[int] = (),
    forbidden: Sequence[int] = (),
) -> ReferenceAnswer:
    """Decode one request at temperature 0."""
    mask, prompt = model.config.tokens.mask_id, len(prompt_PW)
    tokens_G = torch.full((gen_length,), mask)
    blocks, cache = gen_length // block_length, PrefixCache()
    forwards = positions = 0
    end = gen_length
    for block in range(blocks):
        first, last = block * block_length, (block + 1) * block_length
        for step, quota in enumerate(_quotas(block_length, steps // blocks)):
            is_mask_G = tokens_G == mask
            if not is_mask_G[first : min(last, end)].any():
                break
            refresh = step % refresh_interval == 0
            start = 0 if refresh else prompt + first
            cache.cache_until = prompt + first if refresh else None
            logits_NV = _forward(model, prompt_PW, tokens_G, suffix, start, cache)
            forwards, positions = forwards + 1, positions + len(logits_NV)
            logits_NV[:, list(forbidden)] = -torch.inf
            best_N = logits_NV.argmax(-1)
            confidence_N = logits_NV.to(torch.float64).softmax(-1).gather(-1, best_N[:, None])[:, 0]
            best_G, confidence_G = (
                _on_canvas(each, start, prompt, gen_length) for each in (best_N, confidence_N)
            )
            is_candidate_G = is_mask_G.clone()
            is_candidate_G[min(last, end) :] = False
            is_candidate_G[:first] = False
            confidence_G = torch.where(is_candidate_G, confidence_G, -torch.inf)
            count = quota if factor is None else _prefix_length(confidence_G, factor, int(is_mask_G.sum()))
            count = min(count, int(is_candidate_G.sum()))
            chosen = confidence_G.argsort(descending=True, stable=True)[:count]
            tokens_G[chosen] = best_G[chosen]
            for position in range(end):
                if stop and tokens_G[position : position + len(stop)].tolist() == list(stop):
                    end = position
                    break
    return ReferenceAnswer([*tokens_G[:end].tolist(), *suffix], forwards, positions)


def _forward(
    model: LLaDAV, prompt_PW: Tensor, tokens_G: Tensor, suffix: Sequence[int], start: int, cache: PrefixCache
) -> Tensor:
    language = model.language
    ids = torch.cat((tokens_G, torch.tensor(suffix, dtype=torch.long)))
    embeddings = torch.cat((prompt_PW, language.embed_tokens(ids)))
    positions = torch.arange(start, len(embeddings))
    hidden = language(embeddings[start:], rotary_factors(positions, model.config.language), cache)
    return language.lm_head(hidden).float()


def _on_canvas(values_N: Tensor, start: int, prompt: int, gen_length: int) -> Tensor:
    """Values (G) of the canvas; positions before ``start`` have zeros."""
    known = values_N[max(0, prompt - start) :]
    return torch.cat((known.new_zeros(max(0, start - prompt)), known))[:gen_length]


def _quotas(block_length: int, steps: int) -> list[int]:
    base, extra = divmod(block_length, steps)
    return [base + (step < extra) for step in range(steps)]


def _prefix_length(confidence_G: Tensor, factor: float, masks: int) -> int:
    """Length of the longest prefix whose n-th confidence is at least 1 - factor / (n + 1).

    Like the released rule it never leaves a single mask.
    """
    ordered = confidence_G.sort(descending=True).values.tolist()
    length = 0
    while length < len(ordered) and ordered[length] >= 1 - factor / (length + 2):
        length += 1
    length = max(1, length)
    return length + (length == masks - 1)
