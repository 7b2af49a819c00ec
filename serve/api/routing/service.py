"""What the routes and the middleware use: the settings of a server, its completions, its keys and metrics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from lladav.config.schema import ModelConfig
from lladav.inputs.chat import ChatTokenizer
from serve.api.answers.completions import Completions
from serve.auth.keys import Authenticator
from serve.auth.rate_limits import RateLimiter
from serve.ops.metrics import IngressMetrics
from serve.settings import ServeSettings


@dataclass(frozen=True)
class Service:
    """What the routes and the middleware use."""

    settings: ServeSettings
    model: ModelConfig
    tokenizer: ChatTokenizer
    completions: Completions
    authenticator: Authenticator
    limiter: RateLimiter
    metrics: IngressMetrics
    ready: Callable[[], Awaitable[bool]]
    """Whether a request would be answered; asks other processes."""
