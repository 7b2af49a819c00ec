"""What clients get: the text of answers as it is committed, and bodies and chunks in OpenAI's form."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from lladav.text import ChatTokenizer
from serve.api.planning import Plan
from serve.engine.jobs import Ended, Progress

INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
"""What a decoder shows for the first bytes of a character whose others are in a token to come."""
LEAST = 1e-30


@dataclass(frozen=True)
class Piece:
    """Text that is appended to an answer, with the tokens that were committed for it."""

    text: str
    tokens: list[int] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    finish: str | None = None
    """Why the answer ends here: stop or length."""


class AnswerText:
    """The text of an answer while its tokens are committed; text is only ever appended."""

    def __init__(self, plan: Plan, tokenizer: ChatTokenizer) -> None:
        self._plan, self._tokenizer = plan, tokenizer
        self._tokens: list[int] = []
        self._sent = ""

    @property
    def count(self) -> int:
        """Tokens so far."""
        return len(self._tokens)

    def add(self, progress: Progress) -> Piece | None:
        """What newly committed tokens add; nothing where that is not a whole character yet.

        An answer that fits a schema is read out of its tokens at the end.
        """
        room = self._plan.max_tokens - len(self._tokens)
        tokens = progress.tokens[:room]
        self._tokens += tokens
        if self._plan.skeleton is not None or not tokens:
            return None
        text = self._tokenizer.decode(self._tokens).rstrip(INCOMPLETE)
        return Piece(self._appended(text), tokens, progress.confidences[: len(tokens)])

    def end(self, ended: Ended) -> Piece:
        """The rest of the text, and why the answer ends."""
        answer, cut, told = ended.answer, self._plan.max_tokens, len(self._tokens)
        own = len(answer.confidences)
        tokens = self._tokens = answer.tokens[: min(own, cut)]
        if self._plan.skeleton is not None:
            text, finish = self._plan.skeleton.finish(answer.tokens[:own]), "stop"
        elif own > cut:
            text, finish = self._tokenizer.decode(tokens).rstrip(INCOMPLETE), "length"
        else:
            text = self._tokenizer.decode(tokens)
            text = text[: len(text) - answer.excess]
            finish = "stop" if answer.stopped else "length"
        return Piece(self._appended(text), tokens[told:], answer.confidences[told : len(tokens)], finish)

    def _appended(self, text: str) -> str:
        new = text[len(self._sent) :]
        self._sent += new
        return new


def usage(plan: Plan, ended: Sequence[Ended]) -> dict[str, Any]:
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


def tokens_used(plan: Plan, tokens: int) -> dict[str, int]:
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

    def __init__(self, tokenizer: ChatTokenizer, logprobs: bool) -> None:
        self._tokenizer, self._logprobs = tokenizer, logprobs

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
        pairs = zip(piece.tokens, piece.confidences, strict=True)
        return {"content": [self._logprob(*pair) for pair in pairs], "refusal": None}

    def _logprob(self, token: int, confidence: float) -> dict[str, Any]:
        text = self._tokenizer.decode([token])
        return {
            "token": text,
            "logprob": math.log(max(confidence, LEAST)),
            "bytes": None if INCOMPLETE in text else list(text.encode()),
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


def denoise(plan: Plan, progress: Progress, tokenizer: ChatTokenizer) -> dict[str, Any]:
    """A step for whoever watches an answer fill in."""
    reveal = progress.reveal
    filled = zip(reveal.places, reveal.tokens, reveal.confidences, strict=True)
    return _canvas(plan, tokenizer, progress.choice, progress.step, progress.committed, list(filled))


def blank(plan: Plan, number: int, tokenizer: ChatTokenizer) -> dict[str, Any]:
    """The canvas before the first step: what is given stands on it already."""
    given = [(place, token, 1.0) for place, token in plan.job.settings.get("infill", {}).items()]
    return _canvas(plan, tokenizer, number, 0, 0, given)


def _canvas(
    plan: Plan,
    tokenizer: ChatTokenizer,
    number: int,
    step: int,
    committed: int,
    filled: Sequence[tuple[int, int, float]],
) -> dict[str, Any]:
    size = plan.max_tokens
    shown = [
        {"place": place, "token": token, "text": tokenizer.decode([token]), "confidence": confidence}
        for place, token, confidence in filled
        if place < size
    ]
    return {
        "index": number,
        "step": step,
        "canvas": size,
        "reveal": shown,
        "committed": min(committed, size),
    }
