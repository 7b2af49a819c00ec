"""The plain decoding loop: every step forwards the whole of each row, without a cache.

Visual and prompt embeddings are made once per call. Rows of different lengths share a packed forward, rows
that are done leave it, and only competing positions meet the vocabulary, so a row's answer does not depend on
its neighbours.

Shapes: R rows, G positions of the canvas, C the same and a fixed suffix, P of a prompt, T packed, W width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lladav.decoding.canvas import Canvas
from lladav.decoding.options import DecodingOptions
from lladav.decoding.reveal import gumbel_noise, propose
from lladav.errors import UserError
from lladav.model.attention import PackedAttention
from lladav.model.language import rotary_factors
from lladav.model.llada_v import LLaDAV
from lladav.packing import PackedBatch, pack
from lladav.samples import Sample
from lladav.schema import Attention, LanguageConfig


@dataclass(frozen=True)
class Decoded:
    """An answer: its tokens up to the stop, with the suffix behind; forwards and positions that they took."""

    tokens: list[int]
    forwards: int
    positions: int


@dataclass(frozen=True)
class _Prompt:
    id: str
    embeddings_PW: Tensor
    turns_P: Tensor
    generator: torch.Generator


@torch.no_grad()
def decode(model: LLaDAV, prompts: Sequence[Sample], options: DecodingOptions) -> list[Decoded]:
    """Answer prompts together; each answer is the one that its prompt gets alone, to rounding.

    A prompt is a sample whose text ends where the answer begins (``text.encode_prompt``). Raises
    ``UserError`` for ids outside the vocabulary, for a row longer than the model's positions, and for a
    causal model.
    """
    if not prompts:
        return []
    packed = pack(prompts, model.geometry)
    _check(model, options)
    _check_lengths(prompts, packed.lengths, model.config.language, options)
    running = _embed(model, prompts, packed, options)
    canvas = Canvas(len(running), options, model.config.tokens.mask, model.newline.device)
    answers: dict[int, Decoded] = {}
    places = list(range(len(running)))
    while running:
        done_R = _fill_until_done(model, running, canvas).tolist()
        for row, place in enumerate(places):
            if done_R[row]:
                answers[place] = _answer(canvas, row, running[row])
        running = [prompt for prompt, done in zip(running, done_R, strict=True) if not done]
        places = [place for place, done in zip(places, done_R, strict=True) if not done]
        canvas.keep(~torch.tensor(done_R))
    return [answers[place] for place in range(len(prompts))]


def _fill_until_done(model: LLaDAV, running: list[_Prompt], canvas: Canvas) -> Tensor:
    """Step all rows until at least one has nothing left to fill; which ones (R)."""
    packed = _Packed(model, running, canvas.options)
    done_R = canvas.done()
    while not done_R.any():
        competing_RG = canvas.competing()
        logits_MV = packed.logits(canvas.tokens_RG, competing_RG)
        logits_MV[:, list(canvas.options.forbidden)] = -torch.inf
        noise_MV = _noise(running, competing_RG, logits_MV.shape[-1], canvas.options.temperature)
        canvas.fill(competing_RG, *propose(logits_MV, noise_MV))
        done_R = canvas.done()
    return done_R


class _Packed:
    """The running rows end to end, prompts in place: what stays the same from step to step."""

    def __init__(self, model: LLaDAV, running: Sequence[_Prompt], options: DecodingOptions) -> None:
        device = model.newline.device
        suffix = torch.tensor(options.suffix, dtype=torch.long, device=device)
        behind = options.max_tokens + len(suffix)
        lengths = [len(prompt.embeddings_PW) + behind for prompt in running]
        ends_R = torch.tensor(lengths, device=device).cumsum(0)
        turns = [torch.cat((p.turns_P, p.turns_P[-1:].expand(behind))) for p in running]
        positions_T = torch.cat([torch.arange(length, device=device) for length in lengths])
        self._model = model
        self._suffix_RS = suffix.expand(len(running), -1)
        self._canvas_RC = ends_R[:, None] - behind + torch.arange(behind, device=device)
        self._embeddings_TW = torch.cat([_room_behind(p.embeddings_PW, behind) for p in running])
        self._attend = PackedAttention(lengths, model.config.attention, torch.cat(turns))
        self._rotary = rotary_factors(positions_T, model.config.language)

    def logits(self, tokens_RG: Tensor, wanted_RG: Tensor) -> Tensor:
        """Float32 logits (M, V) at the wanted positions of the canvas."""
        language = self._model.language
        tokens_RC = torch.cat((tokens_RG, self._suffix_RS), dim=-1)
        self._embeddings_TW[self._canvas_RC] = language.embed_tokens(tokens_RC)
        hidden_TW = language(self._embeddings_TW, self._rotary, self._attend)
        wanted_M = self._canvas_RC[:, : tokens_RG.shape[-1]][wanted_RG]
        return language.lm_head(hidden_TW[wanted_M]).float()


def _embed(
    model: LLaDAV, prompts: Sequence[Sample], packed: PackedBatch, options: DecodingOptions
) -> list[_Prompt]:
    packed = packed.to(model.newline.device)
    parts = (x.split(packed.lengths) for x in (model.embed(packed), packed.turns_T))
    return [
        _Prompt(sample.id, embeddings_PW, turns_P, _generator(options.seed, sample.id, embeddings_PW.device))
        for sample, embeddings_PW, turns_P in zip(prompts, *parts, strict=True)
    ]


def _room_behind(embeddings_PW: Tensor, length: int) -> Tensor:
    return torch.cat((embeddings_PW, embeddings_PW.new_zeros(length, embeddings_PW.shape[-1])))


def _generator(seed: int, sample_id: str, device: torch.device) -> torch.Generator:
    digest = hashlib.blake2b(f"{seed}/{sample_id}".encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little", signed=True))


def _noise(
    running: Sequence[_Prompt], competing_RG: Tensor, vocabulary: int, temperature: float
) -> Tensor | None:
    if temperature == 0:
        return None
    counts = competing_RG.sum(-1).tolist()
    rows = zip(counts, running, strict=True)
    return torch.cat([gumbel_noise((m, vocabulary), temperature, prompt.generator) for m, prompt in rows])


def _answer(canvas: Canvas, row: int, prompt: _Prompt) -> Decoded:
    options = canvas.options
    tokens = canvas.tokens_RG[row, : int(canvas.end_R[row])].tolist()
    forwards = int(canvas.forwards_R[row])
    length = len(prompt.embeddings_PW) + options.max_tokens + len(options.suffix)
    return Decoded([*tokens, *options.suffix], forwards, forwards * length)


def _check(model: LLaDAV, options: DecodingOptions) -> None:
    vocabulary = model.config.language.vocab_size
    if model.config.attention is Attention.causal:
        raise UserError("model.attention is causal: it predicts next tokens; use a masked-diffusion model")
    named = {*options.forbidden, *options.suffix, *(i for stop in options.stop for i in stop)}
    if outside := sorted(i for i in named if not 0 <= i < vocabulary):
        raise UserError(f"decoding: ids {outside} are outside the vocabulary of {vocabulary}; correct them")


def _check_lengths(
    prompts: Sequence[Sample], lengths: Sequence[int], config: LanguageConfig, options: DecodingOptions
) -> None:
    behind = options.max_tokens + len(options.suffix)
    for prompt, length in zip(prompts, lengths, strict=True):
        if length == 0:
            raise UserError(f"sample {prompt.id}: the prompt is empty; give it at least one token")
        if length + behind > config.max_positions:
            raise UserError(
                f"sample {prompt.id}: {length} tokens and {behind} of the answer exceed the model's "
                f"{config.max_positions}; shorten the prompt or decoding.max_tokens"
            )
