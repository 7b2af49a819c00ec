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

from lladav.decoding.cpu_weights import DecodingWeights
from lladav.decoding.cuda_graphs import GraphedSteps, Size
from lladav.decoding.kv_cache import KVMemory, Slots
from lladav.decoding.paged_attention import Part, attention_of, can_flash
from lladav.decoding.sampler import Draw, Guided, Proposals, propose
from lladav.decoding.sequence import SequenceState, Span
from lladav.decoding.unmasking import UnmaskingRules, revealed
from lladav.model.language import rotary_factors


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
    """The language model, as weights for decoding, and the memory of its keys and values."""

    def __init__(
        self, weights: DecodingWeights, memory: KVMemory, graphs: GraphedSteps | None = None
    ) -> None:
        self._weights, self._memory, self._graphs = weights, memory, graphs
        self._device = memory.keys.device

    @torch.no_grad()
    def step(self, rows: Sequence[Row]) -> list[Reveal | None]:
        """Take one step of each row, cached ones before refreshes; moves their states on.

        None for a row whose logits are not finite: its state stays as it is.
        """
        spans = [row.state.span for row in rows]
        competing = [row.state.competing for row in rows]
        sighted_MW, guided = self._guided(rows, competing, self._forward(rows, spans, competing))
        draws = [_draw(row, places) for row, places in zip(rows, competing, strict=True)]
        reveals = self._reveal(rows, competing, propose(sighted_MW, self._weights.head, draws, guided))
        for row, span, reveal in zip(rows, spans, reveals, strict=True):
            if reveal is not None:
                row.state.fill(span, reveal.places, reveal.tokens, reveal.confidences)
        return reveals

    def _forward(
        self, rows: Sequence[Row], spans: Sequence[Span], competing: Sequence[np.ndarray]
    ) -> list[Tensor]:
        """Hidden states of the competing places, for each stream of each row."""
        tower = self._weights.tower
        inputs, positions, parts, starts = [], [], [], []
        total = 0
        for row, span, places in zip(rows, spans, competing, strict=True):
            answer_CW = tower.embed_tokens(self._canvas(row.state, span))
            wanted_N = torch.from_numpy(row.state.prompt + places - span.start)
            for stream in row.streams:
                inputs += [stream.embeddings_PW[span.start :], answer_CW]
                positions.append(torch.arange(span.start, span.end))
                mask = None if stream.mask_LL is None else stream.mask_LL[span.start : span.end]
                parts.append(Part(span, row.state.length, wanted_N, stream.slots, mask))
                starts.append(total)
                total += len(span)
        wanted_M = torch.cat([start + part.wanted_N for start, part in zip(starts, parts, strict=True)])
        hidden_MW = self._hidden(
            torch.cat(inputs), torch.cat(positions).to(self._device), parts, wanted_M.to(self._device)
        )
        return list(hidden_MW.split([len(part.wanted_N) for part in parts]))

    def _hidden(
        self, inputs_TW: Tensor, positions_T: Tensor, parts: Sequence[Part], wanted_M: Tensor
    ) -> Tensor:
        size = self._graph_size(len(inputs_TW), parts)
        if self._graphs and size:
            return self._graphs.forward(size, inputs_TW, positions_T, parts)[wanted_M]
        tower = self._weights.tower
        rotary = rotary_factors(positions_T, tower.config)
        return tower(inputs_TW, rotary, attention_of(self._memory, parts), wanted_M)

    def _graph_size(self, positions: int, parts: Sequence[Part]) -> Size | None:
        """Size of the graph that this step is, if it is one."""
        if self._graphs is None or any(part.span.refresh for part in parts):
            return None
        return self._graphs.size_for(positions, len(parts)) if can_flash(self._memory, parts) else None

    def _canvas(self, state: SequenceState, span: Span) -> Tensor:
        """Ids of the part of canvas and suffix that the span covers."""
        ids = np.concatenate((state.tokens_G, np.array(state.options.suffix, np.int64)))
        start, end = (max(0, place - state.prompt) for place in (span.start, span.end))
        return torch.from_numpy(ids[start:end]).to(self._device)

    def _guided(
        self, rows: Sequence[Row], competing: Sequence[np.ndarray], hidden: Sequence[Tensor]
    ) -> tuple[Tensor, Guided | None]:
        """Hidden states (M, W) of all rows with their prompts, and those without for rows that are guided."""
        left = iter(hidden)
        streams = [[next(left) for _ in row.streams] for row in rows]
        sighted_MW = torch.cat([of_row[0] for of_row in streams])
        blind = [of_row[1] for of_row in streams if len(of_row) > 1]
        if not blind:
            return sighted_MW, None
        counts = torch.tensor([len(places) for places in competing])
        guides_R = torch.tensor([len(row.streams) > 1 for row in rows])
        scale_M = torch.tensor([row.state.options.guidance for row in rows]).repeat_interleave(counts)
        rows_K = guides_R.repeat_interleave(counts).nonzero().flatten()
        return sighted_MW, Guided(rows_K.to(self._device), torch.cat(blind), scale_M[rows_K].to(self._device))

    def _reveal(
        self,
        rows: Sequence[Row],
        competing: Sequence[np.ndarray],
        proposals: Proposals,
    ) -> list[Reveal | None]:
        """Pick by each row's rule; the one copy to the host."""
        counts = torch.tensor([len(places) for places in competing], device=self._device)
        competes_RB = torch.arange(int(max(map(len, competing))), device=self._device) < counts[:, None]

        def laid_out(values_M: Tensor, rest: float) -> Tensor:
            return torch.full(
                competes_RB.shape, rest, dtype=torch.float64, device=self._device
            ).masked_scatter_(competes_RB, values_M.double())

        confidence_RB = laid_out(proposals.confidence_M, -torch.inf)
        entropy_M = proposals.entropy_M
        entropy_RB = torch.zeros_like(confidence_RB) if entropy_M is None else laid_out(entropy_M, torch.inf)
        picked_RB = revealed(
            confidence_RB, entropy_RB, UnmaskingRules.of([row.state for row in rows], self._device)
        )
        copied = torch.stack((picked_RB.double(), laid_out(proposals.tokens_M, 0.0), confidence_RB))
        copied = copied.cpu().numpy()
        return [_picked(places, copied[:, row, : len(places)]) for row, places in enumerate(competing)]


def _picked(places: np.ndarray, copied: np.ndarray) -> Reveal | None:
    """What is revealed of competing places, from picks, tokens and confidences; None if one is not finite."""
    picked, tokens, confidences = copied
    if np.isnan(confidences).any():
        return None
    chosen = picked > 0
    return Reveal(
        places[chosen].tolist(), tokens[chosen].astype(np.int64).tolist(), confidences[chosen].tolist()
    )


def _draw(row: Row, places: np.ndarray) -> Draw:
    options = row.state.options
    allowed = options.allowed and {
        row: options.allowed[place] for row, place in enumerate(places.tolist()) if place in options.allowed
    }
    return Draw(
        len(places),
        options.forbidden,
        options.temperature,
        options.top_p,
        row.generator,
        entropy=options.entropy is not None,
        allowed=allowed,
    )
