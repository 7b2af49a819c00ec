"""The decoding engine: requests come and go at every denoising step.

``submit`` checks a request and queues it, ``step`` runs one denoising step of whoever is due and tells what
each row revealed, ``cancel`` ends one. An answer does not depend on what else is running; on a GPU, its
rounding does. Nothing but torch is needed: ``decode`` runs a list of prompts to the end.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from lladav.config.schema import Attention
from lladav.decoding.admission import Admission, Need, Room, need_of, prompt_share
from lladav.decoding.cpu_weights import PACKED_BYTES, DecodingWeights
from lladav.decoding.cuda_graphs import GraphedSteps, Size, can_graph
from lladav.decoding.errors import FailureKind, NotFiniteError
from lladav.decoding.kv_cache import PAGE, KVMemory, bytes_of_page
from lladav.decoding.model_runner import Reveal, Row, Runner, Stream
from lladav.decoding.params import DecodingOptions
from lladav.decoding.prompt_encoder import PromptEncoder, prompt_length
from lladav.decoding.results import Decoded, Update, decoded
from lladav.decoding.scheduler import Scheduler
from lladav.decoding.sequence import SequenceState, Span
from lladav.errors import UserError
from lladav.inputs.types import Sample
from lladav.model.attention import segment_mask
from lladav.model.llada_v import LLaDAV

LOG = logging.getLogger(__name__)
MAX_ROWS = 64
REFRESH_POSITIONS = 8192
IMAGE_BYTES = 2**28
GRAPH_BYTES = 2**30
SMALL_PAGE = 32
"""Positions of a page where a call has a memory of its own on a CPU."""


Settle = Callable[[], DecodingOptions]
"""Gives the options of a request when a row is free for it."""


@dataclass(frozen=True)
class _Request:
    id: str
    prompt: Sample
    options: DecodingOptions
    positions: int
    """Of its prompt."""
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
        graph_sizes: Sequence[Size] = (),
        graph_bytes: int = GRAPH_BYTES,
        prompt_bytes: int | None = None,
        page: int = PAGE,
    ) -> None:
        """``memory_bytes`` are for keys and values, for embeddings of running prompts (``prompt_bytes`` of
        them; none: what ``prompt_share`` gives), and for CUDA graphs of ``graph_sizes`` of cached steps, if
        there are any (``graph_bytes`` at most). ``image_bytes`` are for visual tokens that may come again. A
        language tower of up to ``packed_bytes`` is copied into the layout that a CPU multiplies by fastest.

        Raises ``UserError`` for a causal model, for a memory without room for a page, and for graphs without
        a GPU.
        """
        if model.config.attention is Attention.causal:
            raise UserError(
                "model.attention is causal: it predicts next tokens; use a masked-diffusion model"
            )
        self._model = model.eval()
        config, weight = model.config, model.language.embed_tokens.weight
        graphed = bool(graph_sizes) and can_graph(config, weight)
        if prompt_bytes is None:
            prompt_bytes = prompt_share(config, weight.dtype, memory_bytes, max_rows)
        kv_bytes = memory_bytes - prompt_bytes - graphed * graph_bytes
        self.memory = KVMemory(config.language, kv_bytes, weight.dtype, weight.device, page)
        self.prompts = PromptEncoder(model, image_bytes)
        weights = DecodingWeights(model.language, packed_bytes)
        graphs = GraphedSteps(weights.tower, self.memory, graph_sizes, graph_bytes) if graphed else None
        self.admission = Admission(self.memory, prompt_bytes)
        self._runner = Runner(weights, self.memory, graphs)
        self._scheduler = Scheduler(max_rows, refresh_positions)
        self._requests: dict[str, _Request] = {}
        self._rows: dict[str, Row] = {}
        self._rooms: dict[str, Room] = {}
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
        request = _Request(name, prompt, options, self._positions(prompt, options), settle)
        self.admission.check(name, self._need(request, options))
        self._requests[name] = request
        self._scheduler.add(name)
        return options.warnings

    def cancel(self, request: str) -> None:
        """End a request without an answer; its memory is free at once. Unknown ids are ignored."""
        if self._requests.pop(request, None) is not None:
            self._scheduler.drop(request)
            self._rows.pop(request, None)
            if (room := self._rooms.pop(request, None)) is not None:
                self.admission.give_back(room)

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
                message = f"the step failed: {_one_line(error)}"
                return [Update(rows[0].id, error=message, failure=FailureKind.forward)]
            for row, state in zip(rows, draws, strict=True):
                row.generator.set_state(state)
            return [update for row in rows for update in self._run([row])]
        return [self._moved_on(*each) for each in zip(rows, spans, reveals, strict=True)]

    def _moved_on(self, row: Row, span: Span, reveal: Reveal | None) -> Update:
        state, streams = row.state, len(row.streams)
        if reveal is None:
            self.admission.clear(self._rooms[row.id])
            message = str(NotFiniteError("logits", self.memory.keys.dtype))
            return Update(
                row.id,
                forwarded=streams * len(span),
                refresh=span.refresh,
                error=message,
                failure=FailureKind.not_finite,
            )
        if not state.done:
            self._scheduler.due(row.id, streams * len(state.span), state.span.refresh)
        return Update(
            row.id,
            reveal,
            state.committed,
            state.end,
            state.excess,
            state.forwards,
            streams * len(span),
            span.refresh,
            decoded(state) if state.done else None,
        )

    def _start(self, request: str) -> bool:
        """Give a waiting request its memory and encode its prompt; False where it has to wait."""
        wanted = self._requests[request]
        options = wanted.settle() if wanted.settle else wanted.options
        room = self.admission.take(self._need(wanted, options))
        if room is None:
            return False
        self._rooms[request] = room
        try:
            row = self._row(wanted, options, room)
        except Exception as error:  # noqa: BLE001 - a prompt that cannot be encoded fails alone
            failure = FailureKind.not_finite if isinstance(error, NotFiniteError) else FailureKind.prompt
            message = f"the prompt could not be encoded: {_one_line(error)}"
            self._told.append(Update(request, error=message, failure=failure))
            return True
        self._rows[request] = row
        if row.state.done:
            self._told.append(
                Update(
                    request,
                    committed=row.state.committed,
                    end=row.state.end,
                    excess=row.state.excess,
                    answer=decoded(row.state),
                )
            )
        else:
            self._scheduler.due(request, len(row.streams) * row.state.length, refresh=True)
        return True

    def _row(self, wanted: _Request, options: DecodingOptions, room: Room) -> Row:
        prompt = wanted.prompt
        embeddings_PW, turns_P = self.prompts.encode(prompt)
        state = SequenceState(len(embeddings_PW), options, self._model.config.tokens.mask)
        inputs = [embeddings_PW]
        if options.guidance > 0:
            inputs.append(self.prompts.blind(len(embeddings_PW)))
        turns_L = torch.cat((turns_P, turns_P[-1:].expand(options.behind)))
        mask_LL = segment_mask(self._model.config.attention, state.length, turns_L)
        kept = [*room.slots, *[None] * (len(inputs) - len(room.slots))]
        streams = [Stream(each, mask_LL, of_each) for each, of_each in zip(inputs, kept, strict=True)]
        return Row(wanted.id, state, streams, _generator(options.seed, prompt.id, turns_P.device))

    def _need(self, request: _Request, options: DecodingOptions) -> Need:
        return need_of(self._model.config, self.memory.keys.dtype, request.positions, options)

    def _positions(self, prompt: Sample, options: DecodingOptions) -> int:
        """Positions of a prompt that fits into the model with its answer."""
        positions = prompt_length(prompt, self._model.geometry)
        behind, longest = options.behind, self._model.config.language.max_positions
        if positions == 0:
            raise UserError(f"sample {prompt.id}: the prompt is empty; give it at least one token")
        if positions + behind > longest:
            raise UserError(
                f"sample {prompt.id}: {positions} tokens and {behind} of the answer exceed the model's "
                f"{longest}; shorten the prompt or decoding.max_tokens"
            )
        return positions

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
    weight = model.language.embed_tokens.weight
    page = PAGE if weight.is_cuda else SMALL_PAGE
    lengths = [prompt_length(prompt, model.geometry) for prompt in prompts]
    needs = [need_of(model.config, weight.dtype, length, options) for length in lengths]
    pages = sum(-(-need.positions // page) * need.streams for need in needs)
    prompt_bytes = sum(need.prompt_bytes for need in needs)
    memory = max(1, pages) * bytes_of_page(model.config.language, weight.dtype, page) + prompt_bytes
    rows, positions = max(1, len(prompts)), max(1, sum(need.positions for need in needs))
    engine = Engine(model, memory, rows, positions, prompt_bytes=prompt_bytes, page=page)
    for prompt in prompts:
        engine.submit(prompt, options)
    return engine


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
