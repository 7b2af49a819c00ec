"""A decoding engine in its own thread, called from event loops.

The thread runs one step after another while there is any request, and hands the events of a step to each
event loop in one call. An event loop never waits for a step. A request whose client is gone leaves the engine
before the next step.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import queue
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from lladav.decoding.engine import Engine
from lladav.decoding.errors import FailureKind
from lladav.decoding.params import DecodingOptions
from lladav.decoding.results import UnmaskedTokens, Update
from lladav.decoding.sequence import RankedTokens
from lladav.decoding.stops import StopTexts
from lladav.errors import UserError
from lladav.inputs.chat import ChatTokenizer
from serve.engine.messages import Delta, EngineRequest, Event, Finished, StreamMode
from serve.engine.refresh_policy import RefreshRange, StepTimeModel, choose_interval, latency_estimate
from serve.engine.structures import StructureCompiler
from serve.errors import NOT_FINITE, ApiError

if TYPE_CHECKING:
    from serve.ops.metrics import EngineMetrics

LOG = logging.getLogger("ray.serve.engine")

LATENCY_MARGIN = 0.8
"""Share of the time left that the estimated latency of a request may take."""


@dataclass(frozen=True)
class WorkerLoad:
    """Load of an engine; all counts are answers."""

    rows_used: int
    """Answers that are decoded now."""
    rows: int
    """Answers that can be decoded at a time."""
    waiting: int
    """Answers that wait for a row."""
    oldest_waiting_seconds: float


@dataclass
class _Answer:
    """An answer in the engine, and how much of it was sent."""

    submission: _Submission
    choice: int
    unmasked: dict[int, tuple[int, float, RankedTokens]]
    """Token, confidence and the most probable tokens by canvas position."""
    sent: int = 0
    """Committed tokens that were sent."""

    @property
    def name(self) -> str:
        """The id under which the engine runs the answer."""
        return f"{self.submission.request.id}/{self.submission.number}/{self.choice}"


@dataclass(eq=False)
class _Submission:
    """A request in the engine, and the event loop that receives its events."""

    request: EngineRequest
    options: DecodingOptions
    """Those of the request, with the outline of its structure."""
    loop: asyncio.AbstractEventLoop
    number: int = field(default_factory=itertools.count().__next__)
    """Tells apart two submissions of one request: an ingress repeats a request if its replica seems lost."""
    inbox: asyncio.Queue[Event | ApiError] = field(default_factory=asyncio.Queue)
    submitted_at: float = field(default_factory=time.monotonic)
    refresh_interval: int | None = None
    """Chosen when the first answer is admitted, the same for all answers. None: the model has no interval."""
    answers: list[_Answer] = field(default_factory=list)


Command = tuple[Callable[[_Submission], None], _Submission]
"""A method of the worker for the thread to call, with its argument."""
Message = tuple[_Submission, Event | ApiError]
"""An event or an error, and the submission that receives it."""


class EngineWorker:
    """Runs requests in an engine. The public methods are called from event loops, the private ones by the
    thread."""

    def __init__(
        self, engine: Engine, tokenizer: ChatTokenizer, rows: int, busy: float, metrics: EngineMetrics
    ) -> None:
        """``rows`` is the number of rows of the engine. At ``busy`` requests per row, a request gets the
        largest refresh interval of its range.
        """
        self._engine, self._tokenizer, self._metrics = engine, tokenizer, metrics
        self._structures = StructureCompiler(tokenizer)
        self._rows, self._busy = rows, busy
        self._commands: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        self._submissions: set[_Submission] = set()
        """Submissions whose client still listens, even if all of their answers have ended."""
        self._answers: dict[str, _Answer] = {}
        self._ended = False
        self._step_time = StepTimeModel()
        self._failed_steps = 0
        self._cache_counts = (0, 0)
        self._load = WorkerLoad(0, rows, 0, 0.0)
        self._oldest_submitted_at: float | None = None
        self._step_started_at: float | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    async def events(self, request: EngineRequest) -> AsyncGenerator[list[Event], None]:
        """Events of a request as they happen; events that arrived meanwhile come together.

        Raises ``ApiError`` for a request that is refused or fails. Closing the generator removes the request
        from the engine.
        """
        options = await self._structures.options_of(request)
        submission = _Submission(request, options, asyncio.get_running_loop())
        self._commands.put((self._submit, submission))
        try:
            # Checked after the command is queued: the thread sets the flag before it empties the queue.
            if self._ended:
                raise _engine_error()
            unfinished = request.choices
            while unfinished:
                events = await _next_events(submission.inbox)
                unfinished -= sum(isinstance(event, Finished) for event in events)
                yield events
        finally:
            self._commands.put((self._withdraw, submission))

    @property
    def load(self) -> WorkerLoad:
        """The load after the last step."""
        oldest = self._oldest_submitted_at
        age = 0.0 if oldest is None else time.monotonic() - oldest
        return replace(self._load, oldest_waiting_seconds=age)

    @property
    def step_seconds(self) -> float:
        """How long the current step has been running; 0 between steps."""
        started_at = self._step_started_at
        return 0.0 if started_at is None else time.monotonic() - started_at

    @property
    def alive(self) -> bool:
        """Whether the thread runs. It ends by itself only after an error that no request can cause."""
        return self._thread.is_alive()

    @property
    def failed_steps(self) -> int:
        """Consecutive steps, up to the last one, in which every row failed."""
        return self._failed_steps

    def stop(self) -> None:
        """End the thread after its current step."""
        self._commands.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._run_commands():
                messages = self._step() if self._engine.busy else []
                self._report()
                _deliver(messages)
        except Exception:
            LOG.exception("the engine's thread ends")
        finally:
            self._end()

    def _end(self) -> None:
        """Fail all submissions; later ones see ``_ended``."""
        self._ended = True
        with contextlib.suppress(queue.Empty):
            while True:
                if (command := self._commands.get_nowait()) is not None:
                    self._submissions.add(command[1])
        _deliver([(submission, _engine_error()) for submission in self._submissions])

    def _run_commands(self) -> bool:
        """Run all queued commands; wait for one if the engine is idle. False if the thread is to stop."""
        wait = not self._engine.busy
        while True:
            try:
                command = self._commands.get(block=wait)
            except queue.Empty:
                return True
            if command is None:
                return False
            method, submission = command
            method(submission)
            wait = False

    def _submit(self, submission: _Submission) -> None:
        request = submission.request
        self._submissions.add(submission)
        stop_texts = StopTexts(request.stop, self._tokenizer.token_bytes) if request.stop else None
        refresh = request.refresh
        interval = submission.options.refresh_interval if refresh is None else refresh.max
        options = submission.options.with_refresh_interval(interval).with_stop_texts(stop_texts)
        on_admit = None
        if refresh is not None:
            on_admit = partial(self._options_on_admit, submission, options, refresh)
        infilled = {position: (token, 1.0, []) for position, token in options.infill.items()}
        try:
            for choice in range(request.choices):
                answer = _Answer(submission, choice, dict(infilled))
                # Random draws depend on the prompt's id, so each choice gets its own.
                prompt = replace(request.prompt, id=f"answer {choice}")
                self._engine.submit(prompt, options, answer.name, on_admit, request.adapter)
                submission.answers.append(answer)
                self._answers[answer.name] = answer
        except UserError as error:
            self._cancel(submission)
            _deliver([(submission, ApiError(400, str(error)))])

    def _withdraw(self, submission: _Submission) -> None:
        self._submissions.discard(submission)
        self._cancel(submission)

    def _cancel(self, submission: _Submission) -> None:
        for answer in submission.answers:
            self._engine.cancel(answer.name)
            self._answers.pop(answer.name, None)

    def _options_on_admit(
        self, submission: _Submission, options: DecodingOptions, allowed: RefreshRange
    ) -> DecodingOptions:
        """The options with the refresh interval that load and deadline call for now.

        Called when a row is free. If there is no memory yet, the engine calls again later, so the interval is
        chosen again until an answer has started; the other answers get the same interval.
        """
        running = self._engine.running
        started = any(
            answer.name in running or answer.name not in self._answers for answer in submission.answers
        )
        if submission.refresh_interval is None or not started:
            submission.refresh_interval = self._choose_interval(submission.request, options, allowed)
        return options.with_refresh_interval(submission.refresh_interval)

    def _choose_interval(
        self, request: EngineRequest, options: DecodingOptions, allowed: RefreshRange
    ) -> int:
        running, waiting = len(self._engine.running), len(self._engine.waiting)
        others = self._step_time.positions if running else 0.0
        estimate = latency_estimate(self._step_time, options, request.prompt_tokens, others)
        seconds_left = LATENCY_MARGIN * (request.deadline - time.time())
        load = (running + waiting) / self._rows
        return choose_interval(allowed, load, self._busy, seconds_left, estimate)

    def _step(self) -> list[Message]:
        """Run a step; returns the messages that follow from it."""
        before = set(self._engine.running)
        start = self._step_started_at = time.monotonic()
        updates = self._engine.step()
        self._step_started_at, seconds = None, time.monotonic() - start
        admitted = {*self._engine.running, *(update.id for update in updates)} - before
        self._record(updates, seconds, [self._answers[name].submission for name in admitted])
        return [message for update in updates for message in self._messages(update)]

    def _record(self, updates: Sequence[Update], seconds: float, admitted: Sequence[_Submission]) -> None:
        """Count a step and add its time to the step-time model."""
        for submission in admitted:
            waited = time.monotonic() - submission.submitted_at
            self._metrics.admitted(waited, submission.refresh_interval)
        forwarded = sum(update.forwarded for update in updates)
        if forwarded and not admitted:  # a step that admits also encodes prompts, which the model leaves out
            self._step_time.add(forwarded, seconds)
        for update in updates:
            if update.failure is not None:
                self._metrics.failed(update.failure.value)
        if updates:
            failed = all(update.error is not None for update in updates)
            self._failed_steps = self._failed_steps + 1 if failed else 0
        refreshes = sum(update.refresh for update in updates)
        self._metrics.step(seconds, refreshes, sum(update.forwarded > 0 for update in updates) - refreshes)

    def _report(self) -> None:
        """Publish the load and the counts of the image cache."""
        waiting = self._engine.waiting
        self._load = WorkerLoad(len(self._engine.running), self._rows, len(waiting), 0.0)
        oldest = self._answers[waiting[0]].submission.submitted_at if waiting else None
        self._oldest_submitted_at = oldest
        load, prompts = self.load, self._engine.prompt_encoder
        self._metrics.gauges(load.rows_used, load.rows, load.waiting, load.oldest_waiting_seconds)
        hits, misses = self._cache_counts
        if (prompts.hits, prompts.misses) != self._cache_counts:
            self._cache_counts = (prompts.hits, prompts.misses)
            self._metrics.image_cache(prompts.hits - hits, prompts.misses - misses)

    def _messages(self, update: Update) -> list[Message]:
        """Messages about an answer that follow from its update."""
        answer = self._answers.get(update.id)
        if answer is None:  # another answer of the request failed in the same step
            return []
        submission = answer.submission
        if update.error is not None:
            self._cancel(submission)
            return [(submission, _error_of(update))]
        messages: list[Message] = [(submission, delta) for delta in self._deltas(answer, update)]
        if update.answer is not None:
            del self._answers[update.id]
            finished = Finished(answer.choice, update.answer, submission.refresh_interval)
            messages.append((submission, finished))
        return messages

    def _deltas(self, answer: _Answer, update: Update) -> list[Delta]:
        """The delta of an update, if the request wants one."""
        mode, unmasked = answer.submission.request.stream_mode, update.unmasked
        if mode is None:
            return []
        new = zip(unmasked.positions, unmasked.tokens, unmasked.confidences, strict=True)
        answer.unmasked |= {
            position: (token, confidence, unmasked.top.get(position, []))
            for position, token, confidence in new
        }
        still_masked: tuple[int, float, RankedTokens] = (self._tokenizer.ids.mask_id, 1.0, [])
        committed = range(answer.sent, update.committed)
        tokens = [answer.unmasked.get(position, still_masked) for position in committed]
        answer.sent = max(answer.sent, update.committed)
        if not tokens and mode is StreamMode.committed:
            return []
        return [
            Delta(
                answer.choice,
                update.step,
                answer.sent,
                [token for token, _, _ in tokens],
                [confidence for _, confidence, _ in tokens],
                [top for _, _, top in tokens],
                unmasked if mode is StreamMode.denoise else UnmaskedTokens(),
                update.end,
                update.excess,
                update.follows_outline,
            )
        ]


def _engine_error() -> ApiError:
    return ApiError(500, "the engine failed; ask again", code="engine_error")


def _error_of(update: Update) -> ApiError:
    """The error of a failed answer. Repeating does not help if the model's numbers are not finite."""
    if update.failure is FailureKind.not_finite:
        return ApiError(500, str(update.error), code=NOT_FINITE)
    return ApiError(500, f"{update.error}; ask again", code="engine_error")


async def _next_events(inbox: asyncio.Queue[Event | ApiError]) -> list[Event]:
    """Wait for an event, then take all that have arrived."""
    received, events = [await inbox.get()], list[Event]()
    while not inbox.empty():
        received.append(inbox.get_nowait())
    for each in received:
        if isinstance(each, ApiError):
            raise each
        events.append(each)
    return events


def _deliver(messages: Sequence[Message]) -> None:
    """Hand messages to their event loops, one call per loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Message]] = {}
    for message in messages:
        by_loop.setdefault(message[0].loop, []).append(message)
    for loop, of_loop in by_loop.items():
        with contextlib.suppress(RuntimeError):  # the loop is closed, so nobody waits for its messages
            loop.call_soon_threadsafe(_put, of_loop)


def _put(messages: Sequence[Message]) -> None:
    for submission, message in messages:
        submission.inbox.put_nowait(message)
