"""The published refresh-interval decoder, written out plainly: the engine's oracle and its yardstick.

One request, logits of every forwarded position in float32, their softmax in float64, keys and values
concatenated layer by layer, a look at the host for every stop position: as released, its waste included.

Shapes: P positions of the prompt, G of the canvas, N of the rest that a step forwards, V vocabulary, W width.
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
class Published:
    """Tokens up to the stop and the suffix; forwards, and positions that they took."""

    tokens: list[int]
    forwards: int
    positions: int


class PrefixCache:
    """Keys and values before the block, as the last refresh had them."""

    def __init__(self) -> None:
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}
        self.keep: int | None = None

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if self.keep is not None:
            self.kept[layer] = key[: self.keep].clone(), value[: self.keep].clone()
        else:
            key, value = (torch.cat(pair) for pair in zip(self.kept[layer], (key, value), strict=True))
        return attend_once(query, key, value, None)


@torch.no_grad()
def published_decode(
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
) -> Published:
    """Temperature 0."""
    mask, prompt = model.config.tokens.mask, len(prompt_PW)
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
            cache.keep = prompt + first if refresh else None
            logits_NV = _forward(model, prompt_PW, tokens_G, suffix, start, cache)
            forwards, positions = forwards + 1, positions + len(logits_NV)
            logits_NV[:, list(forbidden)] = -torch.inf
            best_N = logits_NV.argmax(-1)
            confidence_N = logits_NV.to(torch.float64).softmax(-1).gather(-1, best_N[:, None])[:, 0]
            best_G, confidence_G = (
                _on_canvas(each, start, prompt, gen_length) for each in (best_N, confidence_N)
            )
            competes_G = is_mask_G.clone()
            competes_G[min(last, end) :] = False
            competes_G[:first] = False
            confidence_G = torch.where(competes_G, confidence_G, -torch.inf)
            count = quota if factor is None else _run(confidence_G, factor, int(is_mask_G.sum()))
            count = min(count, int(competes_G.sum()))
            chosen = confidence_G.argsort(descending=True, stable=True)[:count]
            tokens_G[chosen] = best_G[chosen]
            for place in range(end):
                if stop and tokens_G[place : place + len(stop)].tolist() == list(stop):
                    end = place
                    break
    return Published([*tokens_G[:end].tolist(), *suffix], forwards, positions)


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
    """Values of the canvas; places before ``start`` have none."""
    known = values_N[max(0, prompt - start) :]
    return torch.cat((known.new_zeros(max(0, start - prompt)), known))[:gen_length]


def _quotas(block_length: int, steps: int) -> list[int]:
    base, extra = divmod(block_length, steps)
    return [base + (step < extra) for step in range(steps)]


def _run(confidence_G: Tensor, factor: float, masks: int) -> int:
    """The longest run of confidences whose n-th has 1 - factor / (n + 1); never one mask short of all."""
    ordered = confidence_G.sort(descending=True).values.tolist()
    run = 0
    while run < len(ordered) and ordered[run] >= 1 - factor / (run + 2):
        run += 1
    run = max(1, run)
    return run + (run == masks - 1)
