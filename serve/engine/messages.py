"""Messages between an ingress and the engine replicas: a request, and the events of its answers.

Messages are pickled. Each side loads its own tokenizer, so messages hold token ids and plain values.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from lladav.decoding.params import DecodingOptions
from lladav.decoding.results import Decoded, UnmaskedTokens
from lladav.decoding.sequence import RankedTokens
from lladav.inputs.samples import Sample
from lladav.structured.compiling import StructureSpec
from serve.engine.refresh_policy import RefreshRange


class StreamMode(StrEnum):
    """What a stream shows before an answer is finished."""

    committed = "committed"
    """Tokens that can no longer change."""
    denoise = "denoise"
    """Every denoising step, with the tokens that it unmasked."""


@dataclass(frozen=True)
class EngineRequest:
    """A request to an engine: one prompt, one or more answers."""

    id: str
    prompt: Sample
    prompt_tokens: int
    """Positions of the prompt, visual tokens included."""
    options: DecodingOptions
    """Validated when the request is prepared, and not again. The engine sets the refresh interval and the
    stop texts when it admits the request."""
    refresh: RefreshRange | None
    """None for a model without a refresh interval."""
    deadline: float
    """When the request ends unanswered, by ``time.time()`` of this host. A pickled request holds the seconds
    left instead, because the clocks of two hosts differ."""
    choices: int = 1
    """Number of answers."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer."""
    stream_mode: StreamMode | None = None
    adapter: str | None = None
    """Name of the adapter that answers; None: the base."""
    structure: StructureSpec | None = None
    """The structure of the answers, optional if the options have ``text_options``. The replica compiles it:
    automata are large, and every replica keeps its own."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "deadline": self.deadline - time.time()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, deadline=state["deadline"] + time.time())


@dataclass(frozen=True)
class Delta:
    """What one step added to an answer."""

    choice: int
    step: int
    committed: int
    """Tokens so far that can no longer change."""
    tokens: list[int] = field(default_factory=list)
    """The newly committed tokens."""
    confidences: list[float] = field(default_factory=list)
    """Probability of each of ``tokens`` when it was unmasked."""
    top: list[RankedTokens] = field(default_factory=list)
    """The most probable tokens for each of ``tokens``, if the request asks for them."""
    unmasked: UnmaskedTokens = field(default_factory=UnmaskedTokens)
    """The tokens that the step unmasked; empty unless the mode is ``denoise``."""
    end: int = 0
    """Tokens of the answer up to the first stop that is known so far."""
    excess: int = 0
    """Bytes of the last of these tokens that belong to the stop."""
    follows_outline: bool = False
    """Whether the answer follows the outline of its structure; false until it is decided."""


@dataclass(frozen=True)
class Finished:
    """A finished answer and the refresh interval that it got, if the model has one."""

    choice: int
    answer: Decoded
    refresh_interval: int | None


Event = Delta | Finished
