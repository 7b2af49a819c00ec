"""The decoding engine: continuous batching at the granularity of steps.

``submit`` checks and queues a request, ``step`` runs one step of the scheduled requests and returns an update
for each, ``cancel`` ends a request. An answer does not depend on the other requests; on a GPU this
holds up to rounding. ``decode`` runs a list of prompts to the end.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lladav.config.schema import ModelConfig, Prediction
from lladav.decoding.adapters import Adapters
from lladav.decoding.admission import Admission, MemoryGrant, MemoryNeed, memory_need, prompt_budget
from lladav.decoding.cpu_weights import PREPACK_LIMIT, DecodingWeights
from lladav.decoding.cuda_graphs import CudaGraphs, GraphSize, supports_cuda_graphs
from lladav.decoding.errors import FailureKind, NotFiniteError
from lladav.decoding.kv_cache import BLOCK_SIZE, KVCache, kv_block_bytes
from lladav.decoding.model_runner import GuidanceBranch, ModelRunner, Row
from lladav.decoding.optional_outline import OptionalOutlineSequence
from lladav.decoding.paged_attention import has_mask
from lladav.decoding.params import DecodingOptions, check_next_token
from lladav.decoding.prompt_encoder import PromptEncoder
from lladav.decoding.prompts import prompt_length
from lladav.decoding.results import Decoded, UnmaskedTokens, Update, decoded
from lladav.decoding.scheduler import Scheduler
from lladav.decoding.sequence import AutoregressiveSequence, DenoisingSequence, SequenceState, Span
from lladav.decoding.structured_sequence import StructuredSequence
from lladav.errors import UserError
from lladav.inputs.samples import Sample
from lladav.model.attention import segment_mask
from lladav.model.llada_v import LLaDAV

LOG = logging.getLogger(__name__)
GRAPH_BYTES = 2**30
SMALL_BLOCK_SIZE = 32
"""Positions of a KV block on a CPU, where no kernel needs larger ones."""

OnAdmit = Callable[[], DecodingOptions]
"""Returns the options of a request when a row is free for it."""


@dataclass(frozen=True)
class EngineConfig:
    """Limits of an engine."""

    memory_bytes: int
    """Budget of the KV cache, of the embeddings of running prompts, and of CUDA graphs."""
    max_rows: int = 64
    """Requests that run at a time."""
    refresh_positions: int = 8192
    """Positions that the refreshes of one step forward together; a longer refresh runs alone."""
    image_bytes: int = 2**28
    """Budget of visual tokens that are cached for later requests; not part of ``memory_bytes``."""
    prepack_limit: int = PREPACK_LIMIT
    """On a CPU a language tower of up to this many bytes is copied into oneDNN's packed layout."""
    graph_sizes: Sequence[GraphSize] = ()
    """Sizes of cached steps to capture as CUDA graphs; they need a model on a GPU."""
    graph_bytes: int = GRAPH_BYTES
    """Memory of the CUDA graphs."""
    prompt_bytes: int | None = None
    """Memory of the embeddings of running prompts; None: ``admission.prompt_budget``."""
    block_size: int = BLOCK_SIZE
    """Positions of a KV block."""


@dataclass(frozen=True)
class _Request:
    id: str
    prompt: Sample
    options: DecodingOptions
    prompt_positions: int
    on_admit: OnAdmit | None
    adapter: str | None


class Engine:
    """A model, its adapters, its KV cache, and the requests that wait or run."""

    def __init__(
        self, model: LLaDAV, config: EngineConfig, adapters: Mapping[str, LLaDAV] | None = None
    ) -> None:
        """``adapters`` are copies of the model with an adapter each (``checkpoint.open_adapter``), by name.

        Raises ``UserError`` for memory that holds no KV block, and for CUDA graphs without a GPU.
        """
        self._model = model.eval()
        weight = model.language.embed_tokens.weight
        use_graphs = bool(config.graph_sizes) and supports_cuda_graphs(model.config, weight)
        prompt_bytes = config.prompt_bytes
        if prompt_bytes is None:
            prompt_bytes = prompt_budget(model.config, weight.dtype, config.memory_bytes, config.max_rows)
        kv_bytes = config.memory_bytes - prompt_bytes - use_graphs * config.graph_bytes
        self.kv_cache = KVCache(
            model.config.language, kv_bytes, weight.dtype, weight.device, config.block_size
        )
        self._adapters = Adapters(model, adapters or {})
        self.prompt_encoder = PromptEncoder(model, config.image_bytes, self._adapters.visual_models)
        weights, graphs = DecodingWeights(self._adapters.tower, config.prepack_limit), None
        current = self._adapters.current if self._adapters else None
        if use_graphs:
            graphs = CudaGraphs(
                weights.tower, self.kv_cache, config.graph_sizes, config.graph_bytes, adapters=current
            )
        # The graphs allocate a KV block for padding: admission counts the blocks that are left.
        self.admission = Admission(self.kv_cache, prompt_bytes)
        self._runner = ModelRunner(weights, self.kv_cache, graphs, current)
        self._scheduler = Scheduler(config.max_rows, config.refresh_positions)
        self._requests: dict[str, _Request] = {}
        self._rows: dict[str, Row] = {}
        self._grants: dict[str, MemoryGrant] = {}
        self._pending_updates: list[Update] = []

    @property
    def busy(self) -> bool:
        """Whether any request waits or runs."""
        return bool(self._requests)

    @property
    def waiting(self) -> list[str]:
        """Requests that are not admitted yet, the next one first."""
        return self._scheduler.waiting

    @property
    def running(self) -> list[str]:
        """Requests that are admitted."""
        return self._scheduler.running

    def submit(
        self,
        prompt: Sample,
        options: DecodingOptions,
        name: str | None = None,
        on_admit: OnAdmit | None = None,
        adapter: str | None = None,
    ) -> list[str]:
        """Queue a request to an adapter or the base; returns one line for each setting that has no effect.

        ``name`` is the id of the prompt unless given; random draws depend on the seed and on the id of the
        prompt, not on the name.

        ``on_admit`` is called when a row is free and may choose the refresh interval then: it returns
        ``options`` with another ``refresh_interval``, while ``options`` must have the interval that takes the
        most memory. If the memory is not free yet, ``on_admit`` is called again later.

        Raises ``UserError`` for a name that is in use, an unknown adapter, ids outside the vocabulary, a
        prompt that is empty or too long for the model, options that the model does not have, and a request
        that never fits in the memory.
        """
        name = prompt.id if name is None else name
        if name in self._requests:
            raise UserError(f"request {name}: is running already; choose another id")
        self._adapters.number(adapter)
        self._check_ids(options)
        if self._predicts_next_token:
            check_next_token(options.changed)
        request = _Request(name, prompt, options, self._prompt_positions(prompt, options), on_admit, adapter)
        self.admission.check(name, self._memory_need(request, options))
        self._requests[name] = request
        self._scheduler.add(name)
        return options.warnings

    def cancel(self, request: str) -> None:
        """End a request without an answer and free its memory at once; unknown ids are ignored."""
        if self._requests.pop(request, None) is not None:
            self._scheduler.remove(request)
            self._rows.pop(request, None)
            if (grant := self._grants.pop(request, None)) is not None:
                self.admission.free(grant)

    def step(self) -> list[Update]:
        """Admit requests that fit, run one step of the scheduled ones, and return their updates."""
        self._scheduler.admit(self._admit)
        updates, self._pending_updates = self._pending_updates, []
        rows = [self._rows[request] for request in self._scheduler.schedule()]
        if rows:
            updates += self._run(rows)
        for update in updates:
            if update.answer is not None or update.error is not None:
                self.cancel(update.id)
        return updates

    def _run(self, rows: Sequence[Row]) -> list[Update]:
        """Run one step of rows. If it fails, each row is run alone, so that only rows that fail again end."""
        spans = [row.state.span for row in rows]
        generator_states = [row.generator.get_state() for row in rows]
        try:
            unmasked = self._runner.step(rows)
        except Exception as error:  # a forward may raise anything; the engine continues
            LOG.exception("a step of %d rows failed", len(rows))
            if len(rows) == 1:
                message = f"the step failed: {_one_line(error)}"
                return [Update(rows[0].id, error=message, failure=FailureKind.forward)]
            # The failed step may have drawn random numbers: without a reset, answers would change.
            for row, state in zip(rows, generator_states, strict=True):
                row.generator.set_state(state)
            return [update for row in rows for update in self._run([row])]
        return [self._update(*each) for each in zip(rows, spans, unmasked, strict=True)]

    def _update(self, row: Row, span: Span, unmasked: UnmaskedTokens | None) -> Update:
        """The update of a row after a step over ``span``; schedules its next step."""
        state, branches = row.state, len(row.branches)
        if unmasked is None:
            self.admission.clear(self._grants[row.id])
            return Update(
                row.id,
                forwarded=branches * len(span),
                refresh=span.refresh,
                error=str(NotFiniteError("logits", self.kv_cache.keys.dtype)),
                failure=FailureKind.not_finite,
            )
        if not state.done:
            self._scheduler.set_next_step(row.id, branches * len(state.span), state.span.refresh)
        return _progress(row, unmasked=unmasked, forwarded=branches * len(span), refresh=span.refresh)

    def _admit(self, name: str) -> bool:
        """Allocate the memory of a waiting request and encode its prompt; False if too little is free."""
        request = self._requests[name]
        options = request.on_admit() if request.on_admit else request.options
        grant = self.admission.allocate(self._memory_need(request, options))
        if grant is None:
            return False
        self._grants[name] = grant
        try:
            row = self._row(request, options, grant)
        except Exception as error:  # noqa: BLE001 - a prompt that cannot be encoded ends only its own request
            failure = FailureKind.not_finite if isinstance(error, NotFiniteError) else FailureKind.prompt
            message = f"the prompt could not be encoded: {_one_line(error)}"
            self._pending_updates.append(Update(name, error=message, failure=failure))
            return True
        self._rows[name] = row
        if row.state.done:  # infill or outline leaves nothing to decode
            self._pending_updates.append(_progress(row, unmasked=UnmaskedTokens().with_fixed(row.state)))
        else:
            self._scheduler.set_next_step(name, len(row.branches) * len(row.state.span), refresh=True)
        return True

    def _row(self, request: _Request, options: DecodingOptions, grant: MemoryGrant) -> Row:
        embeddings_PW, turns_P = self.prompt_encoder.encode(request.prompt, request.adapter)
        state = sequence_for(self._model.config, len(embeddings_PW), options)
        prompts = [embeddings_PW]
        if options.guidance > 0:
            prompts.append(self.prompt_encoder.unconditional(len(embeddings_PW)))
        mask_LL = self._mask(turns_P, options) if has_mask(self._model.config) else None
        tables = grant.block_tables or [None] * len(prompts)
        branches = [
            GuidanceBranch(each, mask_LL, table, causal=self._predicts_next_token)
            for each, table in zip(prompts, tables, strict=True)
        ]
        generator = _generator(options.seed, request.prompt.id, turns_P.device)
        return Row(request.id, state, branches, generator, self._adapters.number(request.adapter))

    def _mask(self, turns_P: Tensor, options: DecodingOptions) -> Tensor | None:
        """Attention mask (L, L) of a prompt and its canvas."""
        # The answer belongs to the last turn of the prompt.
        turns_L = torch.cat((turns_P, turns_P[-1:].expand(options.answer_positions)))
        return segment_mask(self._model.config.attention, len(turns_L), turns_L)

    @property
    def _predicts_next_token(self) -> bool:
        return self._model.config.prediction is Prediction.next_token

    def _memory_need(self, request: _Request, options: DecodingOptions) -> MemoryNeed:
        return memory_need(self._model.config, self.kv_cache.keys.dtype, request.prompt_positions, options)

    def _prompt_positions(self, prompt: Sample, options: DecodingOptions) -> int:
        """Positions of a prompt; raises ``UserError`` if it is empty or too long together with its answer."""
        positions = prompt_length(prompt, self._model.geometry)
        answer, longest = options.answer_positions, self._model.config.language.max_positions
        if positions == 0:
            raise UserError(f"sample {prompt.id}: the prompt is empty; give it at least one token")
        if positions + answer > longest:
            raise UserError(
                f"sample {prompt.id}: {positions} tokens and {answer} of the answer exceed the model's "
                f"{longest}; shorten the prompt or decoding.max_tokens"
            )
        return positions

    def _check_ids(self, options: DecodingOptions) -> None:
        vocabulary = self._model.config.language.vocab_size
        if outside := sorted(i for i in options.token_ids if not 0 <= i < vocabulary):
            raise UserError(
                f"decoding: ids {outside} are outside the vocabulary of {vocabulary}; correct them"
            )


def decode(model: LLaDAV, prompts: Sequence[Sample], options: DecodingOptions) -> list[Decoded]:
    """Answer prompts in one batch; each answer is the one that its prompt gets alone.

    A prompt is a sample whose text ends where the answer begins (``chat.encode_prompt``); ids differ. Raises
    ``UserError`` for what ``Engine.submit`` refuses, and if a prompt or a step fails.
    """
    engine = engine_for(model, prompts, options)
    answers: dict[str, Decoded] = {}
    while engine.busy:
        for update in engine.step():
            if update.error is not None:
                raise UserError(f"sample {update.id}: {update.error}")
            if update.answer is not None:
                answers[update.id] = update.answer
    return [answers[prompt.id] for prompt in prompts]


def engine_for(model: LLaDAV, prompts: Sequence[Sample], options: DecodingOptions) -> Engine:
    """An engine with just enough memory to run these prompts together, with all of them queued."""
    weight = model.language.embed_tokens.weight
    block_size = BLOCK_SIZE if weight.is_cuda else SMALL_BLOCK_SIZE
    lengths = [prompt_length(prompt, model.geometry) for prompt in prompts]
    needs = [memory_need(model.config, weight.dtype, length, options) for length in lengths]
    blocks = sum(-(-need.positions // block_size) * need.cached_branches for need in needs)
    prompt_bytes = sum(need.prompt_bytes for need in needs)
    kv_bytes = max(1, blocks) * kv_block_bytes(model.config.language, weight.dtype, block_size)
    config = EngineConfig(
        kv_bytes + prompt_bytes,
        max_rows=max(1, len(prompts)),
        refresh_positions=max(1, sum(need.positions for need in needs)),
        prompt_bytes=prompt_bytes,
        block_size=block_size,
    )
    engine = Engine(model, config)
    for prompt in prompts:
        engine.submit(prompt, options)
    return engine


def sequence_for(config: ModelConfig, prompt: int, options: DecodingOptions) -> SequenceState:
    """The state of a new answer of a model; ``prompt`` is the number of prompt positions."""
    if config.prediction is Prediction.next_token:
        return AutoregressiveSequence(prompt, options)
    if options.text_options is not None:
        return OptionalOutlineSequence(prompt, options, config.tokens)
    if options.outline is not None:
        return StructuredSequence(prompt, options, config.tokens)
    return DenoisingSequence(prompt, options, config.tokens.mask_id)


def _progress(row: Row, **step: Any) -> Update:
    """The update of a row in its present state; ``step`` holds the fields of its last step."""
    state = row.state
    return Update(
        row.id,
        committed=state.committed,
        end=state.end,
        excess=state.excess,
        step=state.forwards,
        follows_outline=state.follows_outline,
        answer=decoded(state) if state.done else None,
        **step,
    )


def _generator(seed: int, prompt_id: str, device: torch.device) -> torch.Generator:
    digest = hashlib.blake2b(f"{seed}/{prompt_id}".encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little", signed=True))


def _one_line(error: Exception) -> str:
    """The first line of an error; the type comes first unless the line is meant for users."""
    first = "".join(str(error).splitlines()[:1])
    return first if isinstance(error, UserError) and first else f"{type(error).__name__}: {first}"
