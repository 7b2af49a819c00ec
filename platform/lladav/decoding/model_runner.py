"""One step of rows that need not have anything in common: length, cache, rule, refresh or not.

The spans of all rows lie end to end in one forward, without padding. The LM head is applied to the candidates
only. One small copy brings the unmasked tokens to the host.

Shapes: T positions of the step, P positions of a prompt, L of a sequence, N candidates of a row, M candidates
of all branches, R rows, B candidates of the row that has the most, W width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from lladav.decoding.adapters import BASE, PositionAdapters
from lladav.decoding.constraints import OpeningScores
from lladav.decoding.cpu_weights import DecodingWeights
from lladav.decoding.cuda_graphs import CudaGraphs, GraphSize
from lladav.decoding.kv_cache import BlockTable, KVCache
from lladav.decoding.paged_attention import BranchSpan, attention_for, supports_flash_attention
from lladav.decoding.results import UnmaskedTokens
from lladav.decoding.sampler import Guidance, SamplerOutput, SamplingParams, sample
from lladav.decoding.sequence import SequenceState, Span
from lladav.decoding.top_tokens import TopTokens
from lladav.decoding.unmasking import unmask
from lladav.model.language import rotary_factors


@dataclass(frozen=True)
class GuidanceBranch:
    """One forward of a row's sequence: its prompt embeddings, attention mask and block table.

    Without a mask every position attends to every other, or under ``causal`` to those up to itself; without a
    block table no later step reads its keys and values. A row has a conditional branch and, with
    classifier-free guidance, an unconditional one whose prompt is all masks. Both have the same answer.
    """

    embeddings_PW: Tensor
    mask_LL: Tensor | None
    block_table: BlockTable | None
    causal: bool = False


@dataclass
class Row:
    """A running request; the conditional branch comes first. A step may replace its state by another one."""

    id: str
    state: SequenceState
    branches: list[GuidanceBranch]
    generator: torch.Generator
    adapter: int = BASE
    """Number of its adapter."""


class ModelRunner:
    """Runs steps of the language model over a KV cache."""

    def __init__(
        self,
        weights: DecodingWeights,
        kv_cache: KVCache,
        graphs: CudaGraphs | None = None,
        adapters: PositionAdapters | None = None,
    ) -> None:
        """``adapters`` are those that the layers of the tower read, if it has adapters."""
        self._weights, self._kv_cache, self._graphs, self._adapters = weights, kv_cache, graphs, adapters
        self._device = kv_cache.keys.device

    @torch.no_grad()
    def step(self, rows: Sequence[Row]) -> list[UnmaskedTokens | None]:
        """Run one step of each row and advance its state; rows with cached spans come before refreshes.

        The result is None for a row with logits that are not finite; its state stays as it is.
        """
        spans = [row.state.span for row in rows]
        candidates = [row.state.candidates for row in rows]
        hidden_MW, guidance = self._guidance(rows, candidates, self._forward(rows, spans))
        params = [_sampling_params(row, own) for row, own in zip(rows, candidates, strict=True)]
        output = sample(hidden_MW, self._weights.head, params, guidance)
        unmasked = self._unmask(rows, candidates, output)
        openings = iter(output.openings)
        return [_advance(*each, openings) for each in zip(rows, spans, unmasked, strict=True)]

    def _forward(self, rows: Sequence[Row], spans: Sequence[Span]) -> list[Tensor]:
        """Hidden states (N, W) of the candidates, for each branch of each row."""
        tower = self._weights.tower
        inputs, positions, branch_spans, outputs = [], [], [], []
        total = 0
        for row, span in zip(rows, spans, strict=True):
            answer_W = tower.embed_tokens(self._answer_ids(row.state, span))
            output_N = torch.from_numpy(row.state.outputs - span.start)
            for branch in row.branches:
                inputs += [branch.embeddings_PW[span.start :], answer_W]
                positions.append(torch.arange(span.start, span.end))
                mask = branch.mask_LL
                if mask is not None:
                    mask = mask[span.start : span.end, : row.state.length]
                branch_spans.append(
                    BranchSpan(
                        span, row.state.length, output_N, branch.block_table, mask, branch.causal, row.adapter
                    )
                )
                outputs.append(total + output_N)
                total += len(span)
        positions_T, output_M = (torch.cat(each).to(self._device) for each in (positions, outputs))
        hidden_MW = self._hidden(torch.cat(inputs), positions_T, branch_spans, output_M)
        return list(hidden_MW.split([len(each) for each in outputs]))

    def _hidden(
        self, inputs_TW: Tensor, positions_T: Tensor, spans: Sequence[BranchSpan], output_M: Tensor
    ) -> Tensor:
        """Hidden states of the output positions, by a CUDA graph if one is large enough."""
        size = self._graph_size(len(inputs_TW), spans)
        if self._graphs and size:
            return self._graphs.forward(size, inputs_TW, positions_T, spans)[output_M]
        if self._adapters:
            lengths, outputs = [len(each.span) for each in spans], [len(each.output_N) for each in spans]
            self._adapters.select([each.adapter for each in spans], lengths, outputs)
        tower = self._weights.tower
        rotary = rotary_factors(positions_T, tower.config)
        return tower(inputs_TW, rotary, attention_for(self._kv_cache, spans), output_M)

    def _graph_size(self, positions: int, spans: Sequence[BranchSpan]) -> GraphSize | None:
        """Size of the graph that runs this step; None if it has a refresh or no graph is large enough."""
        if self._graphs is None or any(each.span.refresh for each in spans):
            return None
        if not supports_flash_attention(self._kv_cache, spans):
            return None
        return self._graphs.size_for(positions, len(spans))

    def _answer_ids(self, state: SequenceState, span: Span) -> Tensor:
        """Ids of canvas and suffix that the span covers."""
        ids = np.concatenate((state.tokens_G, np.array(state.options.suffix, np.int64)))
        start, end = (max(0, position - state.prompt) for position in (span.start, span.end))
        return torch.from_numpy(ids[start:end]).to(self._device)

    def _guidance(
        self, rows: Sequence[Row], candidates: Sequence[np.ndarray], hidden: Sequence[Tensor]
    ) -> tuple[Tensor, Guidance | None]:
        """Conditional hidden states (M, W) of all rows, and unconditional ones of rows with guidance."""
        branches = iter(hidden)
        per_row = [[next(branches) for _ in row.branches] for row in rows]
        conditional_MW = torch.cat([branch[0] for branch in per_row])
        unconditional = [branch[1] for branch in per_row if len(branch) > 1]
        if not unconditional:
            return conditional_MW, None
        counts = torch.tensor([len(own) for own in candidates])
        guided_R = torch.tensor([len(row.branches) > 1 for row in rows])
        scale_M = torch.tensor([row.state.options.guidance for row in rows]).repeat_interleave(counts)
        rows_K = guided_R.repeat_interleave(counts).nonzero().flatten()
        return conditional_MW, Guidance(
            rows_K.to(self._device), torch.cat(unconditional), scale_M[rows_K].to(self._device)
        )

    def _unmask(
        self, rows: Sequence[Row], candidates: Sequence[np.ndarray], output: SamplerOutput
    ) -> list[UnmaskedTokens | None]:
        """Apply the unmasking rule of each row, and copy the result to the host."""
        counts = torch.tensor([len(own) for own in candidates], device=self._device)
        is_candidate_RB = torch.arange(max(map(len, candidates)), device=self._device) < counts[:, None]

        def padded(values_M: Tensor, padding: float) -> Tensor:
            filled_RB = torch.full(is_candidate_RB.shape, padding, dtype=torch.float64, device=self._device)
            return filled_RB.masked_scatter_(is_candidate_RB, values_M.double())

        confidence_RB = padded(output.confidence_M, -torch.inf)
        entropy_RB = None if output.entropy_M is None else padded(output.entropy_M, torch.inf)
        unmasked_RB = unmask(confidence_RB, entropy_RB, [row.state.rule for row in rows])
        # Stacked as float64, which holds token ids exactly: one copy waits for the device once.
        copied = (
            torch.stack((unmasked_RB.double(), padded(output.tokens_M, 0.0), confidence_RB)).cpu().numpy()
        )
        unmasked = [_unmasked(own, copied[:, row, : len(own)]) for row, own in enumerate(candidates)]
        return _with_top(unmasked, candidates, output.top)


def _advance(
    row: Row, span: Span, unmasked: UnmaskedTokens | None, openings: Iterator[OpeningScores]
) -> UnmaskedTokens | None:
    """Advance the state of a row by a step over ``span``; returns the tokens that are new on its canvas.

    ``openings`` has the scores of this row and of later ones that choose.
    """
    state = row.state
    scores = next(openings) if state.choosing else None
    if unmasked is None:
        return None
    if scores is not None:
        row.state = state.choose(span, scores)
        return UnmaskedTokens().with_fixed(row.state)
    written = unmasked.selected(state.writable(unmasked.positions, unmasked.tokens, unmasked.confidences))
    state.fill(span, written.positions, written.tokens, written.confidences)
    state.top |= {
        position: written.top[position] for position in written.positions if position in written.top
    }
    return written.with_fixed(state)


def _unmasked(candidates: np.ndarray, copied: np.ndarray) -> UnmaskedTokens | None:
    """What one row unmasks; None if a confidence is not finite."""
    unmasked, tokens, confidences = copied
    if np.isnan(confidences).any():
        return None
    chosen = unmasked > 0
    return UnmaskedTokens(
        candidates[chosen].tolist(), tokens[chosen].astype(np.int64).tolist(), confidences[chosen].tolist()
    )


def _with_top(
    unmasked: Sequence[UnmaskedTokens | None], candidates: Sequence[np.ndarray], top: TopTokens | None
) -> list[UnmaskedTokens | None]:
    """The unmasked tokens of all rows, with the most probable tokens of the rows that ask for them."""
    if top is None or not top.asked:
        return list(unmasked)
    start, found = 0, list[UnmaskedTokens | None]()
    for each, own in zip(unmasked, candidates, strict=True):
        rows = [] if each is None else start + np.searchsorted(own, each.positions)
        found.append(each and replace(each, top=dict(zip(each.positions, top.of(list(rows)), strict=True))))
        start += len(own)
    return found


def _sampling_params(row: Row, candidates: np.ndarray) -> SamplingParams:
    options = row.state.options
    suppressed = row.state.suppressed
    constraint = row.state.constraint
    padding = constraint.padding if constraint else ()
    return SamplingParams(
        len(candidates),
        tuple(each for each in options.forbidden if each not in padding),
        0.0 if options.greedy else options.temperature,
        options.token_limits,
        row.generator,
        entropy=options.rule.needs_entropy,
        suppressed={n: suppressed[each] for n, each in enumerate(candidates.tolist()) if each in suppressed},
        constraint=constraint,
        bias=options.logit_bias,
        penalties=row.state.penalties,
        top_logprobs=options.top_logprobs,
    )
