"""Chat completions and text completions on the wire: the whole body, or a stream of chunks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lladav.inputs.chat import ChatTokenizer
from serve.api.answers import response_forms as forms
from serve.api.answers.canvas_view import CanvasView
from serve.api.answers.response_forms import AnswerText, Piece, form_of
from serve.api.planning.planner import PreparedRequest
from serve.api.transport.context import AnswerObserver
from serve.api.transport.server_sent import DONE, server_sent
from serve.engine.messages import Delta, Event, Finished, StreamMode
from serve.errors import ApiError


class ChoicesWriter:
    """Writes chat completions and text completions: bodies, and chunks of a stream."""

    def __init__(self, prepared: PreparedRequest, tokenizer: ChatTokenizer, context: AnswerObserver) -> None:
        self._prepared, self._context = prepared, context
        self._form = form_of(prepared)
        choices = range(prepared.choices)
        self._texts = [AnswerText(prepared, tokenizer) for _ in choices]
        self._denoise = prepared.stream_mode is StreamMode.denoise
        self._canvases = [CanvasView(prepared, number, tokenizer) for number in choices if self._denoise]
        self._finished: list[Finished] = []
        self._first_token_sent = False
        self._warnings = list(prepared.warnings)
        self.usage: dict[str, Any] | None = None
        """Usage of the answers that are finished so far."""

    def body(self, finished: Sequence[Finished], usage: Mapping[str, Any]) -> dict[str, Any]:
        """The body of a response that is no stream."""
        pieces = [self._texts[each.choice].end(each) for each in finished]
        choices = [forms.choice(n, self._form.whole(each), each.finish) for n, each in enumerate(pieces)]
        warnings = {"warnings": self._warnings} if self._warnings else {}
        return {**self._head(self._form.object), "choices": choices, "usage": usage, **warnings}

    def opening(self) -> Iterator[str]:
        """Chunks with the role of each choice and, if every step is streamed, its blank canvas."""
        part = self._form.opening()
        for number in range(len(self._texts)):
            chunk = self._chunk([] if part is None else [forms.choice(number, part)])
            if self._denoise:
                chunk["denoise"] = self._canvases[number].blank()
            if part is not None or self._denoise:
                yield server_sent(chunk)

    def chunks(self, events: Sequence[Event]) -> Iterator[str]:
        """Chunks that engine events add."""
        for event in events:
            if isinstance(event, Delta):
                yield from self._delta(event)
            else:
                self._finished.append(event)
                self.usage = forms.usage(self._prepared, self._finished)
                choice = self._choice(event.choice, self._texts[event.choice].end(event))
                yield server_sent(self._chunk([choice]))

    def closing(self) -> Iterator[str]:
        """The last chunk, with the usage and no choices if the request asks for it, and the end mark."""
        if self._prepared.stream_options.include_usage:
            yield server_sent({**self._head(self._form.chunk_object), "choices": [], "usage": self.usage})
        yield DONE

    def failed(self, error: ApiError) -> Iterator[str]:
        """The error, and the end mark."""
        yield server_sent(error.body)
        yield DONE

    def _delta(self, delta: Delta) -> Iterator[str]:
        piece = self._texts[delta.choice].add(delta)
        if piece is None and not self._denoise:
            return
        chunk = self._chunk([] if piece is None else [self._choice(delta.choice, piece)])
        if self._denoise:
            chunk["denoise"] = self._canvases[delta.choice].step(delta)
        yield server_sent(chunk)

    def _choice(self, number: int, piece: Piece) -> dict[str, Any]:
        if not self._first_token_sent:
            self._first_token_sent = True
            self._context.first_token()
        return forms.choice(number, self._form.part(piece), piece.finish)

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """A chunk. As with OpenAI, a requested usage is null until the last chunk; the first has warnings."""
        options, used = self._prepared.stream_options, None
        if options.continuous_usage_stats:
            used = forms.token_counts(self._prepared, sum(text.count for text in self._texts))
        usage = {"usage": used} if options.include_usage or used else {}
        warnings, self._warnings = self._warnings, []
        head = self._head(self._form.chunk_object)
        return {**head, "choices": choices, **usage, **({"warnings": warnings} if warnings else {})}

    def _head(self, kind: str) -> dict[str, Any]:
        prepared = self._prepared
        return {
            "id": prepared.id,
            "object": kind,
            "created": prepared.created,
            "model": prepared.model,
            "system_fingerprint": prepared.fingerprint,
        }
