"""A decoding engine in a thread of its own, asked from an event loop.

The thread takes a step after another while anybody is running; what a step did is handed to the event loop at
once, in one call. An event loop never waits for a step, and a request that is abandoned leaves the engine
before the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

from lladav.decoding.engine import Engine
from lladav.decoding.errors import FailureKind
from lladav.decoding.model_runner import UnmaskedTokens
from lladav.decoding.params import DecodingOptions
from lladav.decoding.results import Decoded, Update
from lladav.errors import UserError
from lladav.inputs.chat import ChatTokenizer
from serve.engine.messages import Delta, DeltaMode, EngineRequest, Event, Finished
from serve.engine.refresh_policy import StepTimeModel, choose_interval, latency_estimate
from serve.errors import NOT_FINITE, ApiError

LOG = logging.getLogger("ray.serve.engine")

MARGIN = 0.8
"""Share of the time that is left which the forecast of an answer may take."""


class StepObserver(Protocol):
    """Who counts what an engine does; see ``serve.ops.metrics.EngineMetrics``."""

    def step(self, seconds: float, refreshes: int, cached: int) -> None: ...

    def admitted(self, queue_seconds: float, interval: int) -> None: ...

    def gauges(self, rows_used: int, rows: int, waiting: int, oldest_waiting_seconds: float) -> None: ...

    def image_cache(self, hits: int, misses: int) -> None: ...

    def failed(self, reason: str) -> None: ...


@dataclass(frozen=True)
class WorkerLoad:
    """Rows in use and in all, answers that wait for one, and for how long the oldest has."""

    rows_used: int
    rows: int
    waiting: int
    oldest_waiting_seconds: float


@dataclass
class _Answer:
    """An answer of a job, as far as it is."""

    work: _Work
    choice: int
    given: dict[int, tuple[int, float]]
    """Token and confidence at places that are filled."""
    told: int = 0

    @property
    def name(self) -> str:
        return f"{self.work.job.id}/{self.work.number}/{self.choice}"


@dataclass(eq=False)
class _Work:
    """A job in the engine, and where its events go."""

    job: EngineRequest
    loop: asyncio.AbstractEventLoop
    number: int = field(default_factory=itertools.count().__next__)
    """A job may be here twice: it is asked again where its replica seemed to be lost."""
    inbox: asyncio.Queue[Event | ApiError] = field(default_factory=asyncio.Queue)
    since: float = field(default_factory=time.monotonic)
    interval: int | None = None
    answers: list[_Answer] = field(default_factory=list)


Command = tuple[Callable[[_Work], None], _Work]
"""Something to do in the thread, and with what."""
Message = tuple[_Work, Event | ApiError]
"""Something to tell, and whose it is."""


class EngineWorker:
    """Runs jobs in an engine; the methods are called from event loops."""

    def __init__(
        self, engine: Engine, tokenizer: ChatTokenizer, rows: int, busy: float, observer: StepObserver
    ) -> None:
        """``rows`` are those of the engine, ``busy`` the requests per row at which dials stand at their
        largest interval.
        """
        self._engine, self._tokenizer, self._observer = engine, tokenizer, observer
        self._rows, self._busy = rows, busy
        self._commands: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        self._works: set[_Work] = set()
        """Jobs whose clients are there, whatever became of their answers."""
        self._answers: dict[str, _Answer] = {}
        self._over = False
        self._pace = StepTimeModel()
        self._failed_steps = 0
        self._images = (0, 0)
        self._load, self._oldest = WorkerLoad(0, rows, 0, 0.0), None
        self._stepping_since: float | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    async def events(self, job: EngineRequest) -> AsyncIterator[list[Event]]:
        """What happens to a job, as it happens; what came in the meantime comes together.

        Raises ``ApiError`` for a job that cannot run or that fails. The job leaves the engine when the
        iterator is closed.
        """
        work = _Work(job, asyncio.get_running_loop())
        self._commands.put((self._submit, work))
        try:
            if self._over:  # asked after the command is in the queue, which is emptied after this is set
                raise _failed()
            left = job.choices
            while left:
                events = await _next_events(work.inbox)
                left -= sum(isinstance(event, Finished) for event in events)
                yield events
        finally:
            self._commands.put((self._leave, work))

    @property
    def load(self) -> WorkerLoad:
        """What was in the engine after the last step."""
        age = 0.0 if self._oldest is None else time.monotonic() - self._oldest
        return replace(self._load, oldest_waiting_seconds=age)

    @property
    def step_seconds(self) -> float:
        """For how long the step that runs now has been running."""
        since = self._stepping_since
        return 0.0 if since is None else time.monotonic() - since

    @property
    def alive(self) -> bool:
        """Whether the thread runs; it ends by itself only when something is wrong with it."""
        return self._thread.is_alive()

    @property
    def failed_steps(self) -> int:
        """Steps up to the last one in which nothing went well."""
        return self._failed_steps

    def stop(self) -> None:
        """End the thread after the step that it is in."""
        self._commands.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._take_commands():
                messages = self._step() if self._engine.busy else []
                self._report()
                _deliver(messages)
        except Exception:
            LOG.exception("the engine's thread ends")
        finally:
            self._end()

    def _end(self) -> None:
        """Tell everybody who is here; who comes now finds out by himself."""
        self._over = True
        with contextlib.suppress(queue.Empty):
            while True:
                if (command := self._commands.get_nowait()) is not None:
                    self._works.add(command[1])
        _deliver([(work, _failed()) for work in self._works])

    def _take_commands(self) -> bool:
        """Do what was asked for since the last step; with nothing to run, wait. False when it is to stop."""
        wait = not self._engine.busy
        while True:
            try:
                command = self._commands.get(block=wait)
            except queue.Empty:
                return True
            if command is None:
                return False
            do, work = command
            do(work)
            wait = False

    def _submit(self, work: _Work) -> None:
        job = work.job
        self._works.add(work)
        try:
            options = job.options(self._tokenizer, job.dial.max)
            for choice in range(job.choices):
                answer = _Answer(
                    work, choice, {place: (token, 1.0) for place, token in options.infill.items()}
                )
                prompt = replace(job.prompt, id=f"answer {choice}")  # on which its draws depend
                self._engine.submit(prompt, options, answer.name, partial(self._settle, work))
                work.answers.append(answer)
                self._answers[answer.name] = answer
        except UserError as error:
            self._drop(work)
            _deliver([(work, ApiError(400, str(error)))])

    def _leave(self, work: _Work) -> None:
        self._works.discard(work)
        self._drop(work)

    def _drop(self, work: _Work) -> None:
        for answer in work.answers:
            self._engine.cancel(answer.name)
            self._answers.pop(answer.name, None)

    def _settle(self, work: _Work) -> DecodingOptions:
        """Options of a job that a row is free for; all of its answers get the interval of the first.

        One whose memory is not free yet is asked about again, when load and time left are others.
        """
        if work.interval is None or not self._begun(work):
            work.interval = self._choose(work.job)
        return work.job.options(self._tokenizer, work.interval)

    def _begun(self, work: _Work) -> bool:
        """Whether any answer of a job runs or has ended."""
        running = self._engine.running
        return any(each.name in running or each.name not in self._answers for each in work.answers)

    def _choose(self, job: EngineRequest) -> int:
        running, waiting = len(self._engine.running), len(self._engine.waiting)
        options = job.options(self._tokenizer, job.dial.max)
        company = self._pace.positions if running else 0.0
        seconds_left = MARGIN * (job.deadline - time.time())
        ahead = latency_estimate(self._pace, options, job.prompt_tokens, company)
        return choose_interval(job.dial, (running + waiting) / self._rows, self._busy, seconds_left, ahead)

    def _step(self) -> list[Message]:
        """Take a step; what it has to say to whom."""
        before = set(self._engine.running)
        start = self._stepping_since = time.monotonic()
        updates = self._engine.step()
        self._stepping_since, seconds = None, time.monotonic() - start
        admitted = {*self._engine.running, *(update.id for update in updates)} - before
        self._observe(updates, seconds, [self._answers[name].work for name in admitted])
        return [message for update in updates for message in self._messages(update)]

    def _observe(self, updates: Sequence[Update], seconds: float, admitted: Sequence[_Work]) -> None:
        """Count and time a step; one that also encoded prompts tells nothing of the pace."""
        for work in admitted:
            self._observer.admitted(time.monotonic() - work.since, work.interval or 1)
        forwarded = sum(update.forwarded for update in updates)
        if forwarded and not admitted:
            self._pace.add(forwarded, seconds)
        for update in updates:
            if update.failure is not None:
                self._observer.failed(update.failure.value)
        if updates:
            failed = all(update.error is not None for update in updates)
            self._failed_steps = self._failed_steps + 1 if failed else 0
        refreshes = sum(update.refresh for update in updates)
        self._observer.step(seconds, refreshes, sum(update.forwarded > 0 for update in updates) - refreshes)

    def _report(self) -> None:
        waiting = self._engine.waiting
        self._load = WorkerLoad(len(self._engine.running), self._rows, len(waiting), 0.0)
        self._oldest = self._answers[waiting[0]].work.since if waiting else None
        load, prompts = self.load, self._engine.prompt_encoder
        self._observer.gauges(load.rows_used, load.rows, load.waiting, load.oldest_waiting_seconds)
        hits, misses = self._images
        if (prompts.hits, prompts.misses) != self._images:
            self._images = (prompts.hits, prompts.misses)
            self._observer.image_cache(prompts.hits - hits, prompts.misses - misses)

    def _messages(self, update: Update) -> list[Message]:
        """What its client is told of an update."""
        answer = self._answers.get(update.id)
        if answer is None:  # its job has failed in this very step
            return []
        work = answer.work
        if update.error is not None:
            self._drop(work)
            return [(work, _failure(update))]
        told = self._progress(answer, update)
        if update.answer is not None:
            del self._answers[update.id]
            told.append(_ended(answer, update.answer))
        return [(work, event) for event in told]

    def _progress(self, answer: _Answer, update: Update) -> list[Event]:
        watch, unmasked = answer.work.job.watch, update.unmasked
        if watch is DeltaMode.nothing:
            return []
        answer.given |= {
            place: (token, confidence)
            for place, token, confidence in zip(
                unmasked.positions, unmasked.tokens, unmasked.confidences, strict=True
            )
        }
        unfilled = self._tokenizer.ids.mask, 1.0  # a place that was left as a mask
        new = [answer.given.get(place, unfilled) for place in range(answer.told, update.committed)]
        answer.told = max(answer.told, update.committed)
        if not new and watch is DeltaMode.committed:
            return []
        tokens, confidences = [token for token, _ in new], [confidence for _, confidence in new]
        shown = unmasked if watch is DeltaMode.denoise else UnmaskedTokens()
        ends = update.end, update.excess
        return [Delta(answer.choice, update.step, answer.told, tokens, confidences, shown, *ends)]


def _failed() -> ApiError:
    return ApiError(500, "the engine failed; ask again", code="engine_error")


def _failure(update: Update) -> ApiError:
    """The error of a request; asking again does not help where the model's numbers are not finite."""
    if update.failure is FailureKind.not_finite:
        return ApiError(500, str(update.error), code=NOT_FINITE)
    return ApiError(500, f"{update.error}; ask again", code="engine_error")


def _ended(answer: _Answer, decoded: Decoded) -> Finished:
    return Finished(answer.choice, decoded, answer.work.interval or 1)


async def _next_events(inbox: asyncio.Queue[Event | ApiError]) -> list[Event]:
    """Wait for an event and take whatever is there."""
    found, events = [await inbox.get()], []
    while not inbox.empty():
        found.append(inbox.get_nowait())
    for each in found:
        if isinstance(each, ApiError):
            raise each
        events.append(each)
    return events


def _deliver(messages: Sequence[Message]) -> None:
    """Hand messages over, those for one event loop in one call."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Message]] = {}
    for work, message in messages:
        by_loop.setdefault(work.loop, []).append((work, message))
    for loop, of_loop in by_loop.items():
        with contextlib.suppress(RuntimeError):  # a loop that is closed has nobody left in it
            loop.call_soon_threadsafe(_put, of_loop)


def _put(messages: Sequence[Message]) -> None:
    for work, message in messages:
        work.inbox.put_nowait(message)
