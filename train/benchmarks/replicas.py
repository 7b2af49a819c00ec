"""Decodes the requests of a benchmark with one engine, or with several in Ray actors.

A replica holds a model and an engine. It gets new requests whenever some of its requests are done, so its
rows stay full although answers differ in length.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol, TypeVar

import ray
import torch

from lladav.checkpoint import open_model
from lladav.decoding.engine import SMALL_BLOCK_SIZE, Engine, EngineConfig
from lladav.decoding.kv_cache import BLOCK_SIZE
from lladav.decoding.params import DecodingOptions
from lladav.decoding.results import Decoded, Update
from lladav.decoding.stops import StopTexts
from lladav.errors import UserError
from lladav.inputs.chat import ChatTokenizer
from lladav.inputs.samples import Sample
from lladav.storage.local_cache import local_model
from lladav.structured.compiling import StructureSpec, compile_structure

CPU_BYTES = 2**30
"""Memory of an engine on a CPU."""
GPU_SHARE = 0.7
"""Share of a GPU's memory that is free beside the weights, for an engine; the rest is for activations."""
QUEUED = 2
"""Requests that a replica holds, for each of its rows."""

T = TypeVar("T")


@dataclass(frozen=True)
class ReplicaOptions:
    """What a replica runs."""

    model: str
    """Folder or URI of a checkpoint."""
    dtype: str
    device: str
    rows: int
    """Requests that are decoded together."""
    kv_bytes: int | None = None
    """Memory of the engine; None: ``CPU_BYTES``, or ``GPU_SHARE`` of a GPU."""


@dataclass(frozen=True)
class TaskRequest:
    """A prompt and how it is decoded."""

    index: int
    prompt: Sample
    options: DecodingOptions
    until: tuple[str, ...] = ()
    """Texts that end the answer. They are not in the options, which would carry the tokenizer to an actor."""
    structure: StructureSpec | None = None
    """The structure of the answer; ``until`` has no effect then. A replica compiles it."""


@dataclass(frozen=True)
class TaskOutcome:
    """The answer to a request, or the reason why there is none."""

    index: int
    text: str = ""
    tokens: int = 0
    """Tokens of the answer that are not EOS."""
    error: str | None = None


class Replica(Protocol):
    """Decodes requests."""

    def advance(self, requests: Sequence[TaskRequest]) -> list[TaskOutcome]:
        """Queue requests and decode until at least one request is done; empty if there are none."""
        ...


class LocalReplica:
    """A model and its engine in this process."""

    def __init__(self, options: ReplicaOptions) -> None:
        folder = local_model(options.model)
        self._tokenizer = ChatTokenizer.load(folder)
        model = open_model(folder, getattr(torch, options.dtype), options.device)
        on_gpu = options.device.startswith("cuda")
        memory = options.kv_bytes or (int(GPU_SHARE * torch.cuda.mem_get_info()[0]) if on_gpu else CPU_BYTES)
        block = BLOCK_SIZE if on_gpu else SMALL_BLOCK_SIZE
        self._engine = Engine(model, EngineConfig(memory, max_rows=options.rows, block_size=block))

    def advance(self, requests: Sequence[TaskRequest]) -> list[TaskOutcome]:
        """Queue requests and decode until at least one request is done; empty if there are none."""
        done = [failed for each in requests if (failed := self._submit(each)) is not None]
        while self._engine.busy and not done:
            done = [outcome for each in self._engine.step() if (outcome := self._outcome(each)) is not None]
        return done

    def _submit(self, request: TaskRequest) -> TaskOutcome | None:
        """Queue a request; an outcome if the engine refuses it."""
        try:
            self._engine.submit(request.prompt, self._options(request), name=str(request.index))
        except UserError as error:
            return TaskOutcome(request.index, error=str(error))
        return None

    def _options(self, request: TaskRequest) -> DecodingOptions:
        """The options with what does not travel to an actor: the outline of a structure, or stop texts."""
        if request.structure is not None:
            longest = request.options.max_tokens
            return request.options.with_outline(
                compile_structure(request.structure, self._tokenizer, longest).outline
            )
        texts = StopTexts(request.until, self._tokenizer.token_bytes) if request.until else None
        return replace(request.options, stop_texts=texts)

    def _outcome(self, update: Update) -> TaskOutcome | None:
        if update.error is not None:
            return TaskOutcome(int(update.id), error=update.error)
        return None if update.answer is None else self._answered(int(update.id), update.answer)

    def _answered(self, index: int, answer: Decoded) -> TaskOutcome:
        tokens = sum(token != self._tokenizer.ids.eos for token in answer.tokens)
        return TaskOutcome(index, answer.text(self._tokenizer.token_bytes), tokens)


class ActorReplica:
    """An ``LocalReplica`` in a Ray actor, with a GPU of its own if the device is one."""

    def __init__(self, options: ReplicaOptions) -> None:
        gpus = 1 if options.device.startswith("cuda") else 0
        self._actor = ray.remote(LocalReplica).options(num_cpus=1, num_gpus=gpus).remote(options)

    def advance(self, requests: Sequence[TaskRequest]) -> list[TaskOutcome]:
        """As ``Replica.advance``; raises Ray's errors if the actor cannot start or dies."""
        return ray.get(self._actor.advance.remote(requests))  # pyright: ignore[reportAttributeAccessIssue]


def decode_all(
    items: Iterable[T],
    prepare: Callable[[T], TaskRequest | TaskOutcome],
    replicas: Sequence[Replica],
    rows: int,
    accept: Callable[[TaskOutcome], None],
) -> None:
    """Decode one request for each item; ``accept`` gets each outcome as soon as there is one.

    ``prepare`` makes the request of an item, or an outcome if it cannot; it runs in the thread of a replica.
    Replicas take items when they have room, so a fast one gets more. The first error that ``prepare``,
    ``accept`` or a replica raises ends all and is raised.
    """
    source, lock, failed = iter(items), threading.Lock(), threading.Event()

    def drain(replica: Replica) -> None:
        running = 0
        while not failed.is_set():
            with lock:
                taken = list(islice(source, QUEUED * rows - running))
            running += len(taken)
            if not running:
                return
            prepared = [prepare(each) for each in taken]
            unprepared = [each for each in prepared if isinstance(each, TaskOutcome)]
            requests = [each for each in prepared if isinstance(each, TaskRequest)]
            for outcome in unprepared + replica.advance(requests):
                running -= 1
                with lock:
                    accept(outcome)

    def drain_or_stop(replica: Replica) -> None:
        try:
            drain(replica)
        except BaseException:
            failed.set()
            raise

    if len(replicas) == 1:
        drain(replicas[0])
        return
    with ThreadPoolExecutor(len(replicas)) as threads:
        list(threads.map(drain_or_stop, replicas))
