"""One denoising step of rows that need not have anything in common: lengths, caches, rules, refresh or not.

The spans of all rows lie end to end in one forward, without padding; only places that compete meet the
vocabulary; one small copy brings what was revealed to the host.

Shapes: T positions of the step, P of a prompt, L of a sequence, M places that compete, R rows, B places of
the fullest row, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from lladav.decoding.cached_attention import CachedAttention, Part
from lladav.decoding.memory import KVMemory, Slots
from lladav.decoding.proposals import Draw, Guided, propose
from lladav.decoding.reveal import Rules, revealed
from lladav.decoding.sequence import SequenceState, Span
from lladav.model.language import rotary_factors
from lladav.model.llada_v import LLaDAV


@dataclass(frozen=True)
class Stream:
    """A prompt's embeddings, who of the sequence sees whom (None: all see all), and where keys and values are
    kept (None: no step reads them).

    A row has one, and with guidance another whose prompt is all masks.
    """

    embeddings_PW: Tensor
    mask_LL: Tensor | None
    slots: Slots | None


@dataclass(frozen=True)
class Row:
    """A running request."""

    id: str
    state: SequenceState
    streams: list[Stream]
    generator: torch.Generator


@dataclass(frozen=True)
class Reveal:
    """Places of the canvas that a step filled, with what and how sure."""

    places: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)


class Runner:
    """The model and the memory of its keys and values."""

    def __init__(self, model: LLaDAV, memory: KVMemory) -> None:
        self._model, self._memory = model, memory
        self._device = model.newline.device

    @torch.no_grad()
    def step(self, rows: Sequence[Row]) -> list[Reveal]:
        """Take one step of each row; moves their states on."""
        spans = [row.state.span for row in rows]
        competing = [row.state.competing for row in rows]
        hidden_TW, offsets = self._forward(rows, spans)
        where = [
            [torch.from_numpy(offset + row.state.prompt + places - span.start) for offset in of_row]
            for row, of_row, places, span in zip(rows, offsets, competing, spans, strict=True)
        ]
        sighted_M = torch.cat([of_row[0] for of_row in where]).to(self._device)
        proposals = propose(
            hidden_TW[sighted_M],
            self._model.language.lm_head.weight,
            [_draw(row, len(places)) for row, places in zip(rows, competing, strict=True)],
            self._guided(rows, where, hidden_TW),
        )
        reveals = self._reveal(
            rows, competing, proposals.tokens_M, proposals.confidence_M, proposals.entropy_M
        )
        for row, span, reveal in zip(rows, spans, reveals, strict=True):
            row.state.fill(span, reveal.places, reveal.tokens, reveal.confidences)
        return reveals

    def _forward(self, rows: Sequence[Row], spans: Sequence[Span]) -> tuple[Tensor, list[list[int]]]:
        """Hidden states (T, W), and where each stream of each row begins in them."""
        pieces, positions, parts = [], [], []
        offsets: list[list[int]] = []
        total = 0
        for row, span in zip(rows, spans, strict=True):
            answer_CW = self._model.language.embed_tokens(self._canvas(row.state, span))
            offsets.append([])
            for stream in row.streams:
                pieces += [stream.embeddings_PW[span.start :], answer_CW]
                positions.append(torch.arange(span.start, span.end))
                mask = None if stream.mask_LL is None else stream.mask_LL[span.start : span.end]
                parts.append(Part(span, row.state.length, stream.slots, mask))
                offsets[-1].append(total)
                total += len(span)
        rotary = rotary_factors(torch.cat(positions).to(self._device), self._model.config.language)
        attend = CachedAttention(self._memory, parts)
        return self._model.language(torch.cat(pieces), rotary, attend), offsets

    def _canvas(self, state: SequenceState, span: Span) -> Tensor:
        """Ids of the part of canvas and suffix that the span covers."""
        ids = np.concatenate((state.tokens_G, np.array(state.options.suffix, np.int64)))
        start, end = (max(0, place - state.prompt) for place in (span.start, span.end))
        return torch.from_numpy(ids[start:end]).to(self._device)

    def _guided(
        self, rows: Sequence[Row], where: Sequence[Sequence[Tensor]], hidden_TW: Tensor
    ) -> Guided | None:
        counts = torch.tensor([len(of_row[0]) for of_row in where])
        guides_R = torch.tensor([len(row.streams) > 1 for row in rows])
        if not guides_R.any():
            return None
        scale_M = torch.tensor([row.state.options.guidance for row in rows]).repeat_interleave(counts)
        rows_K = guides_R.repeat_interleave(counts).nonzero().flatten()
        blind_K = torch.cat([of_row[1] for of_row in where if len(of_row) > 1])
        return Guided(
            rows_K.to(self._device), hidden_TW[blind_K.to(self._device)], scale_M[rows_K].to(self._device)
        )

    def _reveal(
        self,
        rows: Sequence[Row],
        competing: Sequence[np.ndarray],
        tokens_M: Tensor,
        confidence_M: Tensor,
        entropy_M: Tensor,
    ) -> list[Reveal]:
        """Pick by each row's rule; the one copy to the host."""
        counts = torch.tensor([len(places) for places in competing], device=self._device)
        competes_RB = torch.arange(int(max(map(len, competing))), device=self._device) < counts[:, None]

        def laid_out(values_M: Tensor, rest: float) -> Tensor:
            return torch.full(
                competes_RB.shape, rest, dtype=torch.float64, device=self._device
            ).masked_scatter_(competes_RB, values_M.double())

        confidence_RB = laid_out(confidence_M, -torch.inf)
        rules = Rules.of([row.state for row in rows], self._device)
        picked_RB = revealed(confidence_RB, laid_out(entropy_M, torch.inf), rules)
        copied = torch.stack((picked_RB.double(), laid_out(tokens_M, 0.0), confidence_RB)).cpu().numpy()
        reveals = []
        for row, places in enumerate(competing):
            picked, tokens, confidences = copied[:, row, : len(places)]
            chosen = picked > 0
            reveals.append(
                Reveal(
                    places[chosen].tolist(),
                    tokens[chosen].astype(np.int64).tolist(),
                    confidences[chosen].tolist(),
                )
            )
        return reveals


def _draw(row: Row, count: int) -> Draw:
    options = row.state.options
    return Draw(count, options.forbidden, options.temperature, options.top_p, row.generator)
