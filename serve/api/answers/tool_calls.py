"""Calls of tools in the text of an answer, as the text is appended."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from lladav.inputs.tool_text import BETWEEN_CALLS, CALL_END, call_start

START = re.compile(re.escape(call_start("NAME")).replace("NAME", r'([^"\\]+)'))
"""The text before the arguments of a call, with the name of the function."""
END_MARK = "\n"
"""Marks the end of arguments: JSON has no line end, since strings escape them."""


@dataclass(frozen=True)
class CallDelta:
    """What is appended to a call. Its first delta has the id and the name."""

    index: int
    arguments: str = ""
    id: str | None = None
    name: str | None = None

    @property
    def body(self) -> dict[str, Any]:
        """In OpenAI's form of a chunk."""
        function = {"name": self.name, "arguments": self.arguments}
        if self.name is None:
            return {"index": self.index, "function": {"arguments": self.arguments}}
        return {"index": self.index, "id": self.id, "type": "function", "function": function}


class CallReader:
    """Finds the calls in a text that is appended piece by piece."""

    def __init__(self) -> None:
        self._pending = ""
        """Text that is read when more of it has arrived."""
        self._index = -1
        self._in_arguments = False

    def add(self, text: str) -> list[CallDelta]:
        """The deltas that appended text adds, one for each call: some clients read only the first."""
        self._pending += text
        return [_joined(list(deltas)) for _, deltas in groupby(self._deltas(), lambda delta: delta.index)]

    def _deltas(self) -> Iterator[CallDelta]:
        while (delta := self._arguments() if self._in_arguments else self._start()) is not None:
            yield delta

    def _start(self) -> CallDelta | None:
        """The first delta of a call, once all text before its arguments is there."""
        found = START.match(self._pending.removeprefix(BETWEEN_CALLS))
        if found is None:
            return None
        self._pending = found.string[found.end() :]
        self._index, self._in_arguments = self._index + 1, True
        return CallDelta(self._index, id=f"call_{uuid.uuid4().hex[:24]}", name=found[1])

    def _arguments(self) -> CallDelta | None:
        """The next part of the arguments. A last bracket is held back: it may be the end of the call."""
        arguments, end, _ = self._pending.partition(END_MARK)
        if end:
            if len(self._pending) < len(arguments) - 1 + len(CALL_END):
                return None  # the rest of the end arrives later
            self._pending = self._pending[len(arguments) - 1 + len(CALL_END) :]
            self._in_arguments = False
            return CallDelta(self._index, arguments[:-1])
        held = 1 if arguments.endswith("}") else 0
        self._pending = arguments[len(arguments) - held :]
        ready = arguments[: len(arguments) - held]
        return CallDelta(self._index, ready) if ready else None


def _joined(deltas: Sequence[CallDelta]) -> CallDelta:
    """One delta for some of a call."""
    return replace(deltas[0], arguments="".join(delta.arguments for delta in deltas))


def whole_calls(deltas: Sequence[CallDelta]) -> list[dict[str, Any]]:
    """The calls of a whole answer, in OpenAI's form of a message."""
    firsts = [delta for delta in deltas if delta.name is not None]
    return [
        {
            "id": first.id,
            "type": "function",
            "function": {
                "name": first.name,
                "arguments": "".join(each.arguments for each in deltas if each.index == first.index),
            },
        }
        for first in firsts
    ]
