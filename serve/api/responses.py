"""What clients get: the text of answers as it is committed, and bodies and chunks in OpenAI's form."""

from __future__ import annotations

import codecs
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from lladav.decoding.results import Decoded
from lladav.inputs.chat import ChatTokenizer
from serve.api.requests import PlannedRequest
from serve.engine.messages import Delta, Finished
from serve.structured import JsonTemplate

MIN_PROBABILITY = 1e-30


@dataclass(frozen=True)
class Token:
    """A token of an answer: the bytes of the answer that it stands for, and its probability."""

    written: bytes
    confidence: float

    @property
    def text(self) -> str:
        """Its bytes as text, with U+FFFD for a part of a character."""
        return self.written.decode(errors="replace")


@dataclass(frozen=True)
class Piece:
    """Text that is appended to an answer, and the tokens that it is made of."""

    text: str
    tokens: list[Token] = field(default_factory=list)
    finish: str | None = None
    """Why the answer ends here: stop or length."""


class AnswerText:
    """The text of an answer while its tokens are committed; text is only ever appended.

    A token is held back until the characters that it has a part of are complete, so the bytes of a piece's
    tokens are those of its text.
    """

    def __init__(self, plan: PlannedRequest, tokenizer: ChatTokenizer) -> None:
        self._plan, self._token_bytes = plan, tokenizer.token_bytes
        self.count = 0
        """Tokens so far."""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._text, self._held = "", list[Token]()

    def add(self, progress: Delta) -> Piece | None:
        """What newly committed tokens add; nothing where that is not a whole character yet.

        An answer that fits a schema is read out of its tokens at the end.
        """
        tokens = progress.tokens[: self._plan.max_tokens - self.count]
        self.count += len(tokens)
        if self._plan.template is not None:
            return None
        piece = self._take(self._tokens(tokens, progress.confidences))
        return piece if piece.tokens else None

    def end(self, ended: Finished) -> Piece:
        """The rest of the text, and why the answer ends."""
        answer, told = ended.answer, self.count
        own, cut = len(answer.confidences), self._plan.max_tokens
        self.count = min(own, cut)
        if self._plan.template is not None:
            return self._of_schema(self._plan.template, answer)
        tokens = self._tokens(answer.tokens[told : self.count], answer.confidences[told:])
        if own > cut:
            return _joined(self._take(tokens), self._cut(), "length")
        if answer.excess:
            last = tokens[-1]
            tokens[-1] = Token(last.written[: len(last.written) - answer.excess], last.confidence)
        return _joined(self._take(tokens), self._rest(), "stop" if answer.stopped else "length")

    def _tokens(self, ids: Sequence[int], confidences: Sequence[float]) -> list[Token]:
        return [Token(self._token_bytes(each), confidences[n]) for n, each in enumerate(ids)]

    def _take(self, tokens: Sequence[Token]) -> Piece:
        """The tokens up to the last one behind which no character is begun, and their text."""
        text, whole = "", list[Token]()
        for token in tokens:
            self._text += self._decoder.decode(token.written)
            self._held.append(token)
            if not self._pending:
                text, whole = text + self._text, whole + self._held
                self._text, self._held = "", []
        return Piece(text, whole)

    @property
    def _pending(self) -> bytes:
        """The beginning of a character, at the end of the tokens that are held back."""
        return self._decoder.getstate()[0]

    def _rest(self) -> Piece:
        """What is held back, where nothing follows: a character that is begun is shown as invalid."""
        return Piece(self._text + self._decoder.decode(b"", final=True), self._held)

    def _cut(self) -> Piece:
        """What is held back, less a character that is begun, where the answer goes on but is cut off."""
        left, tokens = sum(len(each.written) for each in self._held) - len(self._pending), []
        for each in self._held:
            tokens.append(Token(each.written[:left], each.confidence))
            left -= len(tokens[-1].written)
        return Piece(self._text, tokens)

    def _of_schema(self, template: JsonTemplate, answer: Decoded) -> Piece:
        """JSON, with the bytes of it that each token of the canvas stands for."""
        own = len(answer.confidences)
        text = template.render(answer.tokens[:own])
        parts = template.bytes_of_tokens(answer.tokens[:own])
        return Piece(text, list(map(Token, parts[: self.count], answer.confidences)), "stop")


def _joined(first: Piece, second: Piece, finish: str) -> Piece:
    return Piece(first.text + second.text, first.tokens + second.tokens, finish)


def usage(plan: PlannedRequest, ended: Sequence[Finished]) -> dict[str, Any]:
    """Tokens, and the forwards that they took."""
    tokens = sum(min(len(each.answer.confidences), plan.max_tokens) for each in ended)
    forwards = sum(each.answer.forwards for each in ended)
    refreshes = sum(each.answer.refreshes for each in ended)
    return {
        **tokens_used(plan, tokens),
        "forwards": forwards,
        "refreshes": refreshes,
        "cached_steps": forwards - refreshes,
        "refresh_interval": ended[0].interval,
    }


def tokens_used(plan: PlannedRequest, tokens: int) -> dict[str, int]:
    """OpenAI's part of the usage."""
    prompt = plan.job.prompt_tokens
    return {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}


class Form(Protocol):
    """How chat and text completions differ."""

    object: str
    chunk_object: str

    def whole(self, piece: Piece) -> dict[str, Any]:
        """The answer's part of a choice."""
        ...

    def opening(self) -> dict[str, Any] | None:
        """The part of a choice that opens a stream."""
        ...

    def part(self, piece: Piece) -> dict[str, Any]:
        """The part of a choice that appends to its answer."""
        ...


class ChatForm:
    """Choices with messages."""

    object, chunk_object = "chat.completion", "chat.completion.chunk"

    def __init__(self, logprobs: bool) -> None:
        self._logprobs = logprobs

    def whole(self, piece: Piece) -> dict[str, Any]:
        message = {"role": "assistant", "content": piece.text, "refusal": None}
        return {"message": message, "logprobs": self._logprobs_of(piece)}

    def opening(self) -> dict[str, Any] | None:
        return {"delta": {"role": "assistant", "content": ""}, "logprobs": None}

    def part(self, piece: Piece) -> dict[str, Any]:
        delta = {"content": piece.text} if piece.text or piece.tokens else {}
        return {"delta": delta, "logprobs": self._logprobs_of(piece)}

    def _logprobs_of(self, piece: Piece) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        return {"content": [_logprob(token) for token in piece.tokens], "refusal": None}


def _logprob(token: Token) -> dict[str, Any]:
    return {
        "token": token.text,
        "logprob": math.log(max(token.confidence, MIN_PROBABILITY)),
        "bytes": list(token.written),
        "top_logprobs": [],
    }


class TextForm:
    """Choices with text."""

    object = chunk_object = "text_completion"

    def whole(self, piece: Piece) -> dict[str, Any]:
        return {"text": piece.text, "logprobs": None}

    def opening(self) -> dict[str, Any] | None:
        return None

    def part(self, piece: Piece) -> dict[str, Any]:
        return self.whole(piece)


def choice(number: int, part: Mapping[str, Any], finish: str | None = None) -> dict[str, Any]:
    """A choice of a body or of a chunk."""
    return {"index": number, **part, "finish_reason": finish}


def denoise(plan: PlannedRequest, progress: Delta, tokenizer: ChatTokenizer) -> dict[str, Any]:
    """A step for whoever watches an answer fill in.

    Text behind the end of the answer is left out: a stop is never shown as a whole.
    """
    unmasked, end = progress.unmasked, progress.end
    filled = []
    for place, token, confidence in zip(
        unmasked.positions, unmasked.tokens, unmasked.confidences, strict=True
    ):
        written = tokenizer.token_bytes(token)
        if place == end - 1:
            written = written[: len(written) - progress.excess]
        if place < end or not written:
            filled.append((place, token, Token(written, confidence)))
    return _canvas(plan, progress.choice, progress.step, progress.committed, filled)


def blank(plan: PlannedRequest, number: int, tokenizer: ChatTokenizer) -> dict[str, Any]:
    """The canvas before the first step: what is given stands on it already."""
    given = plan.job.settings.get("infill", {}).items()
    shown = [(place, token, Token(tokenizer.token_bytes(token), 1.0)) for place, token in given]
    return _canvas(plan, number, 0, 0, shown)


def _canvas(
    plan: PlannedRequest, number: int, step: int, committed: int, filled: Sequence[tuple[int, int, Token]]
) -> dict[str, Any]:
    size = plan.max_tokens
    shown = [
        {"place": place, "token": token, "text": written.text, "confidence": written.confidence}
        for place, token, written in filled
        if place < size
    ]
    return {
        "index": number,
        "step": step,
        "canvas": size,
        "reveal": shown,
        "committed": min(committed, size),
    }
