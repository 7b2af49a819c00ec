"""Responses in OpenAI's form: the text of answers as its tokens are committed, bodies and chunks."""

from __future__ import annotations

import codecs
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lladav.decoding.results import Decoded
from lladav.decoding.sequence import RankedTokens
from lladav.inputs.chat import ChatTokenizer
from serve.api.answers.tool_calls import CallDelta, CallReader, whole_calls
from serve.api.planning.planner import PreparedRequest
from serve.engine.messages import Delta, Finished

MIN_PROBABILITY = 1e-30
"""Smaller probabilities count as this one, so that their logarithm is finite."""


@dataclass(frozen=True)
class RankedToken:
    """A token that an answer could have had: its bytes and the logarithm of its probability."""

    data: bytes
    logprob: float


@dataclass(frozen=True)
class Token:
    """A token of an answer: its bytes and its probability."""

    data: bytes
    confidence: float
    top: Sequence[RankedToken] = ()
    """The most probable tokens at its place, if the request asks for them."""

    @property
    def text(self) -> str:
        """The bytes as text, with U+FFFD for a part of a character."""
        return self.data.decode(errors="replace")


@dataclass(frozen=True)
class Piece:
    """Text that is appended to an answer, and its tokens."""

    text: str
    tokens: list[Token] = field(default_factory=list)
    finish: str | None = None
    """Why the answer ends here: stop, length or tool_calls."""
    calls: list[CallDelta] = field(default_factory=list)
    """What is appended to calls of tools; then there is no text."""


class AnswerText:
    """The text of an answer as its tokens are committed; text is only ever appended.

    A token is held back until all characters that it contributes to are complete, so that the bytes of a
    piece's tokens are the bytes of its text.
    """

    def __init__(self, prepared: PreparedRequest, tokenizer: ChatTokenizer) -> None:
        self._prepared, self._token_bytes = prepared, tokenizer.token_bytes
        self._position = 0
        """Canvas positions so far."""
        self.count = 0
        """Tokens so far."""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._text, self._held = "", list[Token]()
        self._calls = CallReader()
        self._beginning = ""
        """The first text of the answer."""

    def add(self, delta: Delta) -> Piece | None:
        """The piece that newly committed tokens add; none while they complete no character or call."""
        tokens = delta.tokens[: self._prepared.limit(delta.follows_outline) - self._position]
        piece = self._take(self._tokens(tokens, delta.confidences, delta.top))
        if self._calls_tools(delta.follows_outline, piece.text):
            piece = Piece("", calls=self._calls.add(piece.text))
        return piece if piece.tokens or piece.calls else None

    def end(self, finished: Finished) -> Piece:
        """The rest of the answer, and why it ends."""
        piece = self._end(finished.answer)
        if self._calls_tools(finished.answer.follows_outline, piece.text):
            return Piece("", finish="tool_calls", calls=self._calls.add(piece.text))
        return piece

    def _calls_tools(self, follows_outline: bool, text: str) -> bool:
        """Whether the answer is calls of tools; ``text`` is appended to it."""
        self._beginning = self._beginning or text
        return self._prepared.calls_tools(follows_outline, self._beginning)

    def _end(self, answer: Decoded) -> Piece:
        already = self._position
        length, cut = len(answer.confidences), self._prepared.limit(answer.follows_outline)
        ids = answer.tokens[already : min(length, cut)]
        tokens = self._tokens(ids, answer.confidences[already:], answer.top[already:])
        if length > cut:
            return _joined(self._take(tokens), self._cut(), "length")
        if answer.excess:
            last = tokens[-1]
            tokens[-1] = replace(last, data=last.data[: len(last.data) - answer.excess])
        return _joined(self._take(tokens), self._rest(), "stop" if answer.stopped else "length")

    def _tokens(
        self, ids: Sequence[int], confidences: Sequence[float], top: Sequence[RankedTokens]
    ) -> list[Token]:
        """The tokens of the next canvas positions, without padding; ``top`` may be empty."""
        self._position += len(ids)
        ranked = top or [[]] * len(ids)
        tokens = [
            Token(self._token_bytes(i), p, self._ranked(best))
            for i, p, best in zip(ids, confidences, ranked, strict=False)
            if i not in self._prepared.padding
        ]
        self.count += len(tokens)
        return tokens

    def _ranked(self, ranked: RankedTokens) -> list[RankedToken]:
        return [RankedToken(self._token_bytes(token), logprob) for token, logprob in ranked]

    def _take(self, tokens: Sequence[Token]) -> Piece:
        """The tokens up to the last one that ends at the end of a character, with their text."""
        text, whole = "", list[Token]()
        for token in tokens:
            self._text += self._decoder.decode(token.data)
            self._held.append(token)
            if not self._pending:
                text, whole = text + self._text, whole + self._held
                self._text, self._held = "", []
        return Piece(text, whole)

    @property
    def _pending(self) -> bytes:
        """The incomplete character at the end of the tokens that are held back."""
        return self._decoder.getstate()[0]

    def _rest(self) -> Piece:
        """The tokens held back at the end of an answer; an incomplete character becomes U+FFFD."""
        return Piece(self._text + self._decoder.decode(b"", final=True), self._held)

    def _cut(self) -> Piece:
        """The tokens held back where an answer is cut, without the bytes of an incomplete character."""
        left, tokens = sum(len(each.data) for each in self._held) - len(self._pending), []
        for each in self._held:
            tokens.append(replace(each, data=each.data[:left]))
            left -= len(tokens[-1].data)
        return Piece(self._text, tokens)


def _joined(first: Piece, second: Piece, finish: str) -> Piece:
    return Piece(first.text + second.text, first.tokens + second.tokens, finish)


def usage(prepared: PreparedRequest, finished: Sequence[Finished]) -> dict[str, Any]:
    """Token counts, and the forwards of the model that the answers took."""
    tokens = sum(_count_tokens(prepared, each.answer) for each in finished)
    forwards = sum(each.answer.forwards for each in finished)
    refreshes = sum(each.answer.refreshes for each in finished)
    intervals = [each.refresh_interval for each in finished if each.refresh_interval is not None]
    return {
        **token_counts(prepared, tokens),
        "forwards": forwards,
        "refreshes": refreshes,
        "cached_steps": forwards - refreshes,
        "refresh_interval": max(intervals, default=None),
    }


def _count_tokens(prepared: PreparedRequest, answer: Decoded) -> int:
    """Tokens of an answer, without padding."""
    length = min(len(answer.confidences), prepared.limit(answer.follows_outline))
    return sum(token not in prepared.padding for token in answer.tokens[:length])


def token_counts(prepared: PreparedRequest, tokens: int) -> dict[str, int]:
    """OpenAI's fields of the usage for ``tokens`` tokens of answers."""
    prompt = prepared.prompt_tokens
    return {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}


class ChatForm:
    """Choices of a chat completion, which hold messages."""

    object, chunk_object = "chat.completion", "chat.completion.chunk"

    def __init__(self, logprobs: bool, calls_only: bool = False) -> None:
        self._logprobs, self._calls_only = logprobs, calls_only

    def whole(self, piece: Piece) -> dict[str, Any]:
        """Fields of a choice for a whole answer."""
        message = {"role": "assistant", "content": piece.text, "refusal": None}
        if piece.calls:
            message |= {"content": None, "tool_calls": whole_calls(piece.calls)}
        return {"message": message, "logprobs": self._logprobs_of(piece)}

    def opening(self) -> dict[str, Any] | None:
        """Fields of a choice for the first chunk of a stream; none: there is no such chunk."""
        content = None if self._calls_only else ""
        return {"delta": {"role": "assistant", "content": content}, "logprobs": None}

    def part(self, piece: Piece) -> dict[str, Any]:
        """Fields of a choice for a chunk that appends to its answer."""
        delta: dict[str, Any] = {"content": piece.text} if piece.text or piece.tokens else {}
        if piece.calls:
            delta["tool_calls"] = [call.body for call in piece.calls]
        return {"delta": delta, "logprobs": self._logprobs_of(piece)}

    def _logprobs_of(self, piece: Piece) -> dict[str, Any] | None:
        if not self._logprobs or piece.calls:
            return None
        tokens = [
            {
                **_logprob(token.data, math.log(max(token.confidence, MIN_PROBABILITY))),
                "top_logprobs": [_logprob(each.data, each.logprob) for each in token.top],
            }
            for token in piece.tokens
        ]
        return {"content": tokens, "refusal": None}


def _logprob(data: bytes, logprob: float) -> dict[str, Any]:
    """A token with the logarithm of its probability."""
    text, least = data.decode(errors="replace"), math.log(MIN_PROBABILITY)
    return {"token": text, "logprob": max(logprob, least), "bytes": list(data)}


class TextForm:
    """Choices of a text completion; the methods are those of ``ChatForm``."""

    object = chunk_object = "text_completion"

    def whole(self, piece: Piece) -> dict[str, Any]:
        return {"text": piece.text, "logprobs": None}

    def opening(self) -> dict[str, Any] | None:
        return None

    def part(self, piece: Piece) -> dict[str, Any]:
        return self.whole(piece)


def form_of(prepared: PreparedRequest) -> ChatForm | TextForm:
    """The form of a request's choices."""
    calls_only = prepared.outline is not None and prepared.calls_tools(follows_outline=True, text="")
    return ChatForm(prepared.logprobs, calls_only) if prepared.chat else TextForm()


def choice(number: int, part: Mapping[str, Any], finish: str | None = None) -> dict[str, Any]:
    """A choice of a body or of a chunk."""
    return {"index": number, **part, "finish_reason": finish}
