"""What travels between an ingress and an engine replica: a job to an engine, and what becomes of it back.

Plain values: each side has a tokenizer of its own, and options are made of a job on either side.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from lladav.decoding.model_runner import UnmaskedTokens
from lladav.decoding.params import DecodingOptions
from lladav.decoding.results import Decoded
from lladav.decoding.stops import StopTexts
from lladav.inputs.chat import ChatTokenizer
from lladav.inputs.types import Sample
from serve.engine.refresh_policy import RefreshRange


class DeltaMode(StrEnum):
    """What a client wants to see before its answers are done."""

    nothing = "nothing"
    committed = "committed"
    """Tokens that can no longer change."""
    denoise = "denoise"
    """Every step, with what it revealed."""


@dataclass(frozen=True)
class EngineRequest:
    """A request as an engine runs it: one prompt, one or more answers."""

    id: str
    prompt: Sample
    prompt_tokens: int
    """Positions of the prompt, visual tokens included."""
    settings: Mapping[str, Any]
    """Settings of ``DecodingOptions``, besides ``refresh_interval`` and ``stop_texts``."""
    dial: RefreshRange
    deadline: float
    """When the request ends unanswered, by ``time.time()`` of this host. A pickled job holds the seconds that
    are left instead: the clocks of two hosts differ."""
    choices: int = 1
    stop: tuple[str, ...] = ()
    watch: DeltaMode = DeltaMode.nothing

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "deadline": self.deadline - time.time()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, deadline=state["deadline"] + time.time())

    def options(self, tokenizer: ChatTokenizer, interval: int) -> DecodingOptions:
        """Options at a refresh interval; raises ``UserError`` where they do not fit together."""
        texts = StopTexts(self.stop, tokenizer.token_bytes) if self.stop else None
        given = {**self.settings, "stop_texts": texts, "refresh_interval": interval}
        return DecodingOptions.for_chat(tokenizer.ids, **given)


@dataclass(frozen=True)
class Delta:
    """What a step did to an answer that is watched."""

    choice: int
    step: int
    committed: int
    """Tokens that can no longer change, so far."""
    tokens: list[int] = field(default_factory=list)
    """Those among them that are new."""
    confidences: list[float] = field(default_factory=list)
    unmasked: UnmaskedTokens = field(default_factory=UnmaskedTokens)
    """What the step filled in; empty unless every step is watched."""
    end: int = 0
    """Tokens of the answer as far as stops are known."""
    excess: int = 0
    """Bytes of the last of them that belong to a stop."""


@dataclass(frozen=True)
class Finished:
    """An answer that is done, and the refresh interval that it got."""

    choice: int
    answer: Decoded
    interval: int


Event = Delta | Finished
