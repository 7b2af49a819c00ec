"""Answers in the form of ``/v1/responses``: the whole response, or a stream of its events.

They are made of the messages and deltas of a chat completion.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lladav.inputs.chat import ChatTokenizer
from serve.api.answers.response_forms import AnswerText, ChatForm, Piece, usage
from serve.api.planning.planner import PreparedRequest
from serve.api.responses.items import ItemEvent, OutputItems
from serve.api.responses.schemas import ResponsesRequest
from serve.api.responses.translation import with_own_names
from serve.api.transport.context import AnswerObserver
from serve.api.transport.server_sent import server_sent
from serve.engine.messages import Event, Finished
from serve.errors import ApiError

DEFAULTS: dict[str, Any] = {
    "background": False,
    "error": None,
    "incomplete_details": None,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "service_tier": "default",
    "store": False,
    "temperature": None,
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": None,
    "truncation": "disabled",
}
"""Fields of a response that repeat the request, or that OpenAI's clients expect."""
FAILED = "server_error"
"""OpenAI's code of a response that failed."""
REPEATED = {
    *(
        "instructions",
        "max_output_tokens",
        "max_tool_calls",
        "metadata",
        "parallel_tool_calls",
        "temperature",
    ),
    *("tool_choice", "tools", "top_logprobs", "top_p", "user"),
}


def repeated_fields(body: ResponsesRequest) -> dict[str, Any]:
    """Fields of a response that do not depend on the answer."""
    given = body.model_dump(mode="json", include=REPEATED, exclude_none=True)
    tools = [{"strict": None, "parameters": None, **tool} for tool in given.get("tools", ())]
    text = {} if body.text is None else body.text.model_dump(mode="json", by_alias=True, exclude_none=True)
    reasoning = {"effort": None, "summary": None}
    text = {"format": {"type": "text"}, **text}
    return {**DEFAULTS, **given, "tools": tools, "text": text, "reasoning": reasoning}


class ResponsesWriter:
    """Writes one response."""

    def __init__(
        self,
        repeated: Mapping[str, Any],
        prepared: PreparedRequest,
        tokenizer: ChatTokenizer,
        context: AnswerObserver,
    ) -> None:
        """``repeated`` are the fields that repeat the request."""
        self._repeated, self._prepared, self._context = repeated, prepared, context
        self._form = ChatForm(prepared.logprobs)
        self._text = AnswerText(prepared, tokenizer)
        self._output = OutputItems(prepared.id.partition("-")[2])
        self._finish: str | None = None
        self._number, self._begun = 0, False
        self.usage: dict[str, Any] | None = None

    def body(self, finished: Sequence[Finished], usage: Mapping[str, Any]) -> dict[str, Any]:
        """The whole response."""
        (answer,) = finished
        list(self._added(self._text.end(answer)))
        list(self._output.end(self._complete))
        return self._response(self._status, usage)

    def opening(self) -> Iterator[str]:
        """The response before its output."""
        for name in ("response.created", "response.in_progress"):
            yield self._event(ItemEvent(name, {"response": self._response("in_progress")}))

    def chunks(self, events: Sequence[Event]) -> Iterator[str]:
        """Events of the output that engine events add."""
        for event in events:
            if isinstance(event, Finished):
                self.usage = usage(self._prepared, [event])
                yield from self._written(self._text.end(event))
            elif piece := self._text.add(event):
                yield from self._written(piece)

    def closing(self) -> Iterator[str]:
        """The ends of the output and of the response."""
        yield from map(self._event, self._output.end(self._complete))
        response = self._response(self._status, self.usage)
        yield self._event(ItemEvent(f"response.{self._status}", {"response": response}))

    def failed(self, error: ApiError) -> Iterator[str]:
        """The error, and the response that failed."""
        fields = {"code": error.code, "message": error.message, "param": error.param}
        yield self._event(ItemEvent("error", fields))
        response = self._response("failed") | {"error": {"code": FAILED, "message": error.message}}
        yield self._event(ItemEvent("response.failed", {"response": response}))

    @property
    def _complete(self) -> bool:
        return self._finish != "length"

    @property
    def _status(self) -> str:
        return "completed" if self._complete else "incomplete"

    def _written(self, piece: Piece) -> Iterator[str]:
        if not self._begun:
            self._begun = True
            self._context.first_token()
        # all of them first: events that an error keeps from being sent get no number
        yield from map(self._event, list(self._added(piece)))

    def _added(self, piece: Piece) -> Iterator[ItemEvent]:
        """Events of the output that a piece of the answer adds."""
        self._finish = piece.finish or self._finish
        part = self._form.part(piece)
        logprobs = part["logprobs"]
        yield from self._output.add(part["delta"], logprobs["content"] if logprobs else [])

    def _response(self, status: str, used: Mapping[str, Any] | None = None) -> dict[str, Any]:
        prepared = self._prepared
        incomplete = {"incomplete_details": {"reason": "max_output_tokens"}} if status == "incomplete" else {}
        used_fields = {} if used is None else {"usage": _usage(used)}
        warnings = {"warnings": list(map(with_own_names, prepared.warnings))} if prepared.warnings else {}
        return {
            **self._repeated,
            "id": f"resp_{prepared.id.partition('-')[2]}",
            "object": "response",
            "created_at": prepared.created,
            "model": prepared.model,
            "status": status,
            "output": self._output.ended,
            **used_fields,
            **incomplete,
            **warnings,
        }

    def _event(self, event: ItemEvent) -> str:
        number, self._number = self._number, self._number + 1
        return server_sent({"type": event.name, "sequence_number": number, **event.fields}, event.name)


def _usage(used: Mapping[str, Any]) -> dict[str, Any]:
    """The usage of a chat completion under the names of this API, with the counts of forwards."""
    tokens = {
        "input_tokens": used["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": used["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": used["total_tokens"],
    }
    own = ("prompt_tokens", "completion_tokens", "total_tokens")
    return tokens | {name: value for name, value in used.items() if name not in own}
