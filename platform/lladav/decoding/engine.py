"""The decoding engine: requests come and go at every denoising step.

``submit`` checks a request and queues it, ``step`` runs one denoising step of whoever is due and tells what
each row revealed, ``cancel`` ends one. An answer does not depend on what else is running; on a GPU, its
rounding does. Nothing but torch is needed: ``decode`` runs a list of prompts to the end.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from lladav.decoding.graphs import GraphedSteps
from lladav.decoding.memory import PAGE, KVMemory, Slots, bytes_of_page
from lladav.decoding.options import Cache, DecodingOptions
from lladav.decoding.prompts import PromptEncoder, prompt_length
from lladav.decoding.runner import Reveal, Row, Runner, Stream
from lladav.decoding.scheduler import Scheduler
from lladav.decoding.sequence import SequenceState, Span
from lladav.decoding.weights import PACKED_BYTES, DecodingWeights
from lladav.errors import UserError
from lladav.model.attention import segment_mask
from lladav.model.llada_v import LLaDAV
from lladav.samples import Sample
from lladav.schema import Attention

LOG = logging.getLogger(__name__)
MAX_ROWS = 64
REFRESH_POSITIONS = 8192
IMAGE_BYTES = 2**28
SMALL_PAGE = 32
"""Positions of a page where a call has a memory of its own on a CPU."""


@dataclass(frozen=True)
class Decoded:
    """An answer: its tokens up to the stop, with the suffix behind, the probability each had when it was
    revealed, and the forwards, refreshes among them, and positions that they took.

    ``stopped`` tells whether a stop ended it, and not its canvas. Where a stop text begins inside the
    answer's last token, ``excess`` characters of that are the stop's.
    """

    tokens: list[int]
    confidences: list[float]
    forwards: int
    refreshes: int
    positions: int
    stopped: bool = False
    warnings: list[str] = field(default_factory=list)
    excess: int = 0

    def text(self, decode: Callable[[Sequence[int]], str]) -> str:
        """Its text, suffix included; ``decode`` gives the text of ids."""
        count = len(self.confidences)
        own = decode(self.tokens[:count])
        return own[: len(own) - self.excess] + decode(self.tokens[count:])


@dataclass(frozen=True)
class Update:
    """What a step did to a request: places filled, and how many tokens of the answer can no longer change.

    ``step`` counts the request's steps so far, and ``forwarded`` the positions of this one, of all streams.
    The last update of a request has its ``answer``, or the ``error`` that ended it.
    """

    id: str
    reveal: Reveal = field(default_factory=Reveal)
    committed: int = 0
    step: int = 0
    forwarded: int = 0
    refresh: bool = False
    answer: Decoded | None = None
    error: str | None = None


Settle = Callable[[], DecodingOptions]
"""Gives the options of a request when a row is free for it."""


@dataclass(frozen=True)
class _Request:
    id: str
    prompt: Sample
    options: DecodingOptions
    length: int
    settle: Settle | None


class Engine:
    """A model, the memory of its keys and values, and the requests in it."""

    def __init__(
        self,
        model: LLaDAV,
        memory_bytes: int,
        max_rows: int = MAX_ROWS,
        refresh_positions: int = REFRESH_POSITIONS,
        image_bytes: int = IMAGE_BYTES,
        packed_bytes: int = PACKED_BYTES,
        cuda_graphs: bool = False,
        page: int = PAGE,
    ) -> None:
        """``memory_bytes`` are for keys and values, ``image_bytes`` for visual tokens that may come again; a
        language tower of up to ``packed_bytes`` is copied into the layout that a CPU multiplies by fastest;
        ``cuda_graphs`` launches cached steps on a GPU as one, for a page of the memory.

        Raises ``UserError`` for a causal model, for a memory without room for a page, and for graphs without
        a GPU.
        """
        if model.config.attention is Attention.causal:
            raise UserError(
                "model.attention is causal: it predicts next tokens; use a masked-diffusion model"
            )
        self._model = model.eval()
        weight = model.language.embed_tokens.weight
        if cuda_graphs and not weight.is_cuda:
            raise UserError("decoding: cuda_graphs need a model on a GPU; leave them out")
        self.memory = KVMemory(model.config.language, memory_bytes, weight.dtype, weight.device, page)
        self.prompts = PromptEncoder(model, image_bytes)
        weights = DecodingWeights(model.language, packed_bytes)
        graphs = GraphedSteps(weights.tower, self.memory) if cuda_graphs else None
        self._capacity = self.memory.table.free
        self._runner = Runner(weights, self.memory, graphs)
        self._scheduler = Scheduler(max_rows, refresh_positions)
        self._requests: dict[str, _Request] = {}
        self._rows: dict[str, Row] = {}
        self._told: list[Update] = []

    @property
    def busy(self) -> bool:
        """Whether any request is running or waits."""
        return bool(self._requests)

    @property
    def waiting(self) -> list[str]:
        """Requests that have no row yet, the next one first."""
        return self._scheduler.waiting

    @property
    def running(self) -> list[str]:
        """Requests that have a row."""
        return self._scheduler.running

    def submit(
        self, prompt: Sample, options: DecodingOptions, name: str | None = None, settle: Settle | None = None
    ) -> list[str]:
        """Queue a request by name, its prompt's id unless given; lines about settings that change nothing.

        Random draws depend on the seed and the prompt's id alone. ``settle`` is asked when a row is free and
        decides how often the request refreshes: it gives ``options`` with another ``refresh_interval``, and
        ``options`` themselves have the one that takes the most memory.

        Raises ``UserError`` for a name that is in use, for ids outside the vocabulary, for a prompt that is
        empty or too long for the model, and for a request that this memory can never hold.
        """
        name = prompt.id if name is None else name
        if name in self._requests:
            raise UserError(f"request {name}: is running already; choose another id")
        self._check_ids(options)
        request = _Request(name, prompt, options, self._length(prompt, options), settle)
        needed = _kept_streams(options) * self.memory.pages_for(request.length)
        if needed > self._capacity:
            raise UserError(
                f"request {name}: {request.length} positions take {needed} pages of K/V memory, which "
                f"has {self._capacity}; raise it, or shorten the prompt or decoding.max_tokens"
            )
        self._requests[name] = request
        self._scheduler.add(name)
        return options.warnings

    def cancel(self, request: str) -> None:
        """End a request without an answer; its memory is free at once. Unknown ids are ignored."""
        if self._requests.pop(request, None) is not None:
            self._scheduler.drop(request)
            if (row := self._rows.pop(request, None)) is not None:
                self._release([stream.slots for stream in row.streams])

    def step(self) -> list[Update]:
        """Admit who fits, run one denoising step of who is due, and tell what happened to whom."""
        self._scheduler.admit(self._start)
        updates, self._told = self._told, []
        rows = [self._rows[request] for request in self._scheduler.choose()]
        if rows:
            updates += self._run(rows)
        for update in updates:
            if update.answer is not None or update.error is not None:
                self.cancel(update.id)
        return updates

    def _run(self, rows: Sequence[Row]) -> list[Update]:
        """A step of rows; after one that fails each is tried alone, so that only those at fault end."""
        spans = [row.state.span for row in rows]
        draws = [row.generator.get_state() for row in rows]
        try:
            reveals = self._runner.step(rows)
        except Exception as error:  # whatever the forward raises, the engine goes on
            LOG.exception("a step of %d rows failed", len(rows))
            if len(rows) == 1:
                return [Update(rows[0].id, error=f"the step failed: {_one_line(error)}")]
            for row, state in zip(rows, draws, strict=True):
                row.generator.set_state(state)
            return [update for row in rows for update in self._run([row])]
        return [self._moved_on(*each) for each in zip(rows, spans, reveals, strict=True)]

    def _moved_on(self, row: Row, span: Span, reveal: Reveal) -> Update:
        state, streams = row.state, len(row.streams)
        if not state.done:
            self._scheduler.due(row.id, streams * len(state.span), state.span.refresh)
        return Update(
            row.id,
            reveal,
            state.committed,
            state.forwards,
            streams * len(span),
            span.refresh,
            _decoded(state) if state.done else None,
        )

    def _start(self, request: str) -> bool:
        """Give a waiting request its memory and encode its prompt; False where it has to wait."""
        wanted = self._requests[request]
        options = wanted.settle() if wanted.settle else wanted.options
        slots = [self.memory.take(wanted.length) for _ in range(_kept_streams(options))]
        if None in slots:
            self._release(slots)
            return False
        try:
            row = self._row(wanted, options, slots)
        except Exception as error:  # noqa: BLE001 - a prompt that cannot be encoded fails alone
            self._release(slots)
            self._told.append(Update(request, error=f"the prompt could not be encoded: {_one_line(error)}"))
            return True
        self._rows[request] = row
        if row.state.done:
            self._told.append(Update(request, committed=row.state.committed, answer=_decoded(row.state)))
        else:
            self._scheduler.due(request, len(row.streams) * row.state.length, refresh=True)
        return True

    def _row(self, wanted: _Request, options: DecodingOptions, slots: Sequence[Slots | None]) -> Row:
        prompt = wanted.prompt
        embeddings_PW, turns_P = self.prompts.encode(prompt)
        state = SequenceState(len(embeddings_PW), options, self._model.config.tokens.mask)
        inputs = [embeddings_PW]
        if options.guidance > 0:
            inputs.append(self.prompts.blind(len(embeddings_PW)))
        turns_L = torch.cat((turns_P, turns_P[-1:].expand(options.behind)))
        mask_LL = segment_mask(self._model.config.attention, state.length, turns_L)
        kept = [*slots, *[None] * (len(inputs) - len(slots))]
        streams = [Stream(each, mask_LL, of_each) for each, of_each in zip(inputs, kept, strict=True)]
        return Row(wanted.id, state, streams, _generator(options.seed, prompt.id, turns_P.device))

    def _release(self, slots: Sequence[Slots | None]) -> None:
        for each in slots:
            if each is not None:
                self.memory.give_back(each)

    def _length(self, prompt: Sample, options: DecodingOptions) -> int:
        """Positions of the request in all."""
        positions = prompt_length(prompt, self._model.geometry)
        behind, longest = options.behind, self._model.config.language.max_positions
        if positions == 0:
            raise UserError(f"sample {prompt.id}: the prompt is empty; give it at least one token")
        if positions + behind > longest:
            raise UserError(
                f"sample {prompt.id}: {positions} tokens and {behind} of the answer exceed the model's "
                f"{longest}; shorten the prompt or decoding.max_tokens"
            )
        return positions + behind

    def _check_ids(self, options: DecodingOptions) -> None:
        vocabulary = self._model.config.language.vocab_size
        stops = (i for stop in options.stop for i in stop)
        allowed = (i for ids in options.allowed.values() for i in ids)
        named = {*options.forbidden, *options.suffix, *options.infill.values(), *stops, *allowed}
        if outside := sorted(i for i in named if not 0 <= i < vocabulary):
            raise UserError(
                f"decoding: ids {outside} are outside the vocabulary of {vocabulary}; correct them"
            )


def decode(model: LLaDAV, prompts: Sequence[Sample], options: DecodingOptions) -> list[Decoded]:
    """Answer prompts together; each answer is the one that its prompt gets alone.

    A prompt is a sample whose text ends where the answer begins (``text.encode_prompt``); ids differ. Raises
    ``UserError`` for what ``Engine.submit`` refuses, and where a prompt or a step fails.
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
    """An engine with memory for these prompts, all of them queued."""
    lengths = [prompt_length(prompt, model.geometry) + options.behind for prompt in prompts]
    weight = model.language.embed_tokens.weight
    page = PAGE if weight.is_cuda else SMALL_PAGE
    pages = sum(-(-length // page) for length in lengths) * _kept_streams(options)
    memory = max(1, pages) * bytes_of_page(model.config.language, weight.dtype, page)
    engine = Engine(model, memory, max(1, len(prompts)), max(1, sum(lengths)), page=page)
    for prompt in prompts:
        engine.submit(prompt, options)
    return engine


def _kept_streams(options: DecodingOptions) -> int:
    """Streams whose keys and values a later step reads: none where every step refreshes."""
    if options.cache is Cache.none or options.refresh_interval == 1:
        return 0
    return 2 if options.guidance > 0 else 1


def _decoded(state: SequenceState) -> Decoded:
    return Decoded(
        state.answer,
        state.confidence_G[: state.end].tolist(),
        state.forwards,
        state.refreshes,
        state.positions,
        state.end < state.options.max_tokens or state.excess > 0,
        state.options.warnings,
        state.excess,
    )


def _generator(seed: int, request: str, device: torch.device) -> torch.Generator:
    digest = hashlib.blake2b(f"{seed}/{request}".encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little", signed=True))


def _one_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return (
        lines[0]
        if isinstance(error, UserError) and lines
        else f"{type(error).__name__}: {' '.join(lines[:1])}"
    )
