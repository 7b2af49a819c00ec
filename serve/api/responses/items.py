"""The output of ``/v1/responses``: items made of deltas of a chat completion, and events about them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple


class ItemEvent(NamedTuple):
    """An event of a stream without its number."""

    name: str
    fields: dict[str, Any]


class TextItem:
    """A message of the answer with one text."""

    def __init__(self, answer_id: str, index: int) -> None:
        self._id, self._index = f"msg_{answer_id}_{index}", index
        self._text, self._logprobs = "", list[Any]()

    def content(self, status: str) -> dict[str, Any]:
        """The item; its text is there once it has ended."""
        parts = [] if status == "in_progress" else [self._part()]
        return {"id": self._id, "type": "message", "status": status, "role": "assistant", "content": parts}

    def opening(self) -> Iterator[ItemEvent]:
        """Events before the text."""
        yield _item_event("added", self._index, self.content("in_progress"))
        yield self._event("response.content_part.added", part=self._part())

    def add(self, text: str, logprobs: Sequence[Any]) -> Iterator[ItemEvent]:
        """Append text with the probabilities of its tokens."""
        self._text += text
        self._logprobs += logprobs
        yield self._event("response.output_text.delta", delta=text, logprobs=logprobs)

    def ending(self, status: str) -> Iterator[ItemEvent]:
        """Events after the text."""
        yield self._event("response.output_text.done", text=self._text, logprobs=self._logprobs)
        yield self._event("response.content_part.done", part=self._part())
        yield _item_event("done", self._index, self.content(status))

    def _part(self) -> dict[str, Any]:
        return {
            "type": "output_text",
            "text": self._text,
            "annotations": [],
            "logprobs": list(self._logprobs),
        }

    def _event(self, name: str, **fields: Any) -> ItemEvent:
        place = {"item_id": self._id, "output_index": self._index, "content_index": 0}
        return ItemEvent(name, {**place, **fields})


class CallItem:
    """A call of a function."""

    def __init__(self, answer_id: str, index: int, call: Mapping[str, Any]) -> None:
        """``call`` is the first delta of the call in a chat completion."""
        self._id, self._index = f"fc_{answer_id}_{index}", index
        self._call_id, self._name = call["id"], call["function"]["name"]
        self._arguments = ""

    def content(self, status: str) -> dict[str, Any]:
        """The item with its arguments so far."""
        call = {"call_id": self._call_id, "name": self._name, "arguments": self._arguments}
        return {"id": self._id, "type": "function_call", "status": status, **call}

    def opening(self) -> Iterator[ItemEvent]:
        """The event before the arguments."""
        yield _item_event("added", self._index, self.content("in_progress"))

    def add(self, arguments: str) -> Iterator[ItemEvent]:
        """Append a part of the arguments."""
        self._arguments += arguments
        yield self._event("delta", delta=arguments)

    def ending(self, status: str) -> Iterator[ItemEvent]:
        """Events after the arguments."""
        yield self._event("done", arguments=self._arguments, name=self._name)
        yield _item_event("done", self._index, self.content(status))

    def _event(self, what: str, **fields: Any) -> ItemEvent:
        place = {"item_id": self._id, "output_index": self._index}
        return ItemEvent(f"response.function_call_arguments.{what}", {**place, **fields})


class OutputItems:
    """The items of an answer; the last one grows."""

    def __init__(self, answer_id: str) -> None:
        self._answer_id = answer_id
        self._ended = list[dict[str, Any]]()
        self._last: TextItem | CallItem | None = None
        self._call = -1
        """Index of the last call among those of the chat completion."""

    @property
    def ended(self) -> list[dict[str, Any]]:
        """The items that have ended."""
        return list(self._ended)

    def add(self, delta: Mapping[str, Any], logprobs: Sequence[Any]) -> Iterator[ItemEvent]:
        """Events of a delta of a chat completion, with the probabilities of its tokens."""
        if text := delta.get("content"):
            if not isinstance(self._last, TextItem):
                yield from self._open(TextItem(self._answer_id, self._next_index))
            assert isinstance(self._last, TextItem)
            yield from self._last.add(text, logprobs)
        for call in delta.get("tool_calls", ()):
            if call["index"] != self._call:
                self._call = call["index"]
                yield from self._open(CallItem(self._answer_id, self._next_index, call))
            if arguments := call["function"].get("arguments"):
                assert isinstance(self._last, CallItem)
                yield from self._last.add(arguments)

    def end(self, complete: bool) -> Iterator[ItemEvent]:
        """End the last item; an answer without any item is an empty text."""
        if self._last is None:
            yield from self._open(TextItem(self._answer_id, 0))
        yield from self._end("completed" if complete else "incomplete")

    @property
    def _next_index(self) -> int:
        return len(self._ended) + (self._last is not None)

    def _open(self, item: TextItem | CallItem) -> Iterator[ItemEvent]:
        yield from self._end("completed")
        self._last = item
        yield from item.opening()

    def _end(self, status: str) -> Iterator[ItemEvent]:
        if self._last is not None:
            yield from self._last.ending(status)
            self._ended.append(self._last.content(status))
            self._last = None


def _item_event(what: str, index: int, item: dict[str, Any]) -> ItemEvent:
    return ItemEvent(f"response.output_item.{what}", {"output_index": index, "item": item})
