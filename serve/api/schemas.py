"""Bodies of requests: OpenAI's fields, and the knobs of diffusion beside them; unknown fields are refused."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from serve.decoding_params import Count, DecodingParams, EnumText, Rule, WholeNumber, limit_fields

Text = Annotated[str, Field(max_length=1_000_000)]
StopText = Annotated[str, Field(min_length=1, max_length=256)]
"""An engine compares each of its beginnings with the answer at every step."""


def shape_of_stop(stop: Any) -> str:
    """Decides what a value is meant to be, so that what is wrong with it is told of one alone."""
    return "list" if isinstance(stop, list) else "text"


Stop = Annotated[
    Annotated[StopText, Tag("text")] | Annotated[list[StopText], Field(fail_fast=True), Tag("list")],
    Discriminator(shape_of_stop),
]


class Body(BaseModel):
    """A part of a request; a number is no text and no truth value, as the OpenAPI document says."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)

    _few_fields = model_validator(mode="before")(limit_fields)


class Effort(StrEnum):
    """Settings by name; the server's configuration says what each stands for."""

    fast = "fast"
    balanced = "balanced"
    accurate = "accurate"


class StreamMode(StrEnum):
    """What a stream shows before an answer is done."""

    committed = "committed"
    denoise = "denoise"


class StreamOptions(Body):
    include_usage: bool = False
    """Whether a last chunk has the usage."""
    continuous_usage_stats: bool = False
    """Whether each chunk has the tokens so far, as load generators ask for."""


class TextPart(Body):
    type: Literal["text"]
    text: Text


class ImageUrl(Body):
    url: str
    """A data URI with base64; an https URL where the server fetches from its host."""
    detail: Literal["auto", "low", "high"] = "auto"
    """Changes nothing: the size of the image decides its tiles."""


class ImagePart(Body):
    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]
Parts = Annotated[list[Part], Field(min_length=1, fail_fast=True)]
TextParts = Annotated[list[TextPart], Field(fail_fast=True)]
"""Of a list with many wrong items the first one is enough for a refusal."""


class SystemMessage(Body):
    role: Literal["system", "developer"]
    content: Text | TextParts
    name: str | None = None


class UserMessage(Body):
    role: Literal["user"]
    content: Text | Parts
    name: str | None = None


class AssistantMessage(Body):
    role: Literal["assistant"]
    content: Text | TextParts
    name: str | None = None
    refusal: None = None


ChatMessage = Annotated[SystemMessage | UserMessage | AssistantMessage, Field(discriminator="role")]


class JsonSchema(Body):
    name: Annotated[str, Field(max_length=64)]
    description: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    """JSON Schema of the answer; what is supported stands in the documentation."""
    strict: bool | None = None
    """Changes nothing: answers always fit the schema."""


class PlainFormat(Body):
    type: Literal["text"]


class SchemaFormat(Body):
    type: Literal["json_schema"]
    json_schema: JsonSchema


class DecodingBody(DecodingParams):
    """What both kinds of completion take."""

    model_config = ConfigDict(strict=True)

    model: str
    max_tokens: Count | None = None
    """Longest answer, in tokens."""
    effort: Annotated[Effort | None, EnumText] = None
    """Settings by name; those that are given beside it win."""
    reveal: Annotated[Rule | None, EnumText] = None  # pyright: ignore[reportInvalidTypeForm] - made of the table
    """The rule that decides how many tokens a step unmasks; a parameter of a rule selects it, too."""
    deadline_ms: Count | None = None
    """The request ends with 504 after this time. It gets the smallest refresh interval that is expected to
    finish in time; without ``refresh_interval`` that is the server's default unless the deadline requires
    more."""
    stop: Stop | None = None
    """Texts that end an answer; they are not part of it."""
    ignore_eos: bool = False
    """Fill ``max_tokens`` with text: the end of a turn is never written. For load generators."""
    seed: Annotated[int, Field(ge=-(2**62), lt=2**62), WholeNumber] | None = None
    """Of the sampling: the same request with the same seed has the same answer."""
    n: Count | None = None
    """Answers, each with draws of its own; 1 unless given."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stream_mode: Annotated[StreamMode, EnumText] = StreamMode.committed
    """committed: text is only ever appended. denoise: every step is shown, in a field of its own."""
    user: str | None = None
    """Changes nothing."""

    @property
    def choices(self) -> int:
        """How many answers are wanted."""
        return self.n or 1

    @property
    def stops(self) -> list[str]:
        """The stop texts."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or [])


class ChatRequest(DecodingBody):
    """Body of ``POST /v1/chat/completions``."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True)]
    max_completion_tokens: Count | None = None
    """OpenAI's newer name of ``max_tokens``."""
    logprobs: bool | None = None
    """Whether each token comes with the logarithm of its probability when it was revealed."""
    top_logprobs: Literal[0] | None = None
    """Other candidates are not kept."""
    response_format: Annotated[PlainFormat | SchemaFormat, Field(discriminator="type")] | None = None
    """json_schema: the answer is JSON that fits the schema."""
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    """0 alone: penalties have no meaning where tokens are not written in order."""
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    """0 alone, as above."""
    metadata: Annotated[dict[str, str], BeforeValidator(limit_fields)] | None = None
    """Changes nothing."""
    store: Literal[False] | None = None
    """Nothing is stored."""


class CompletionRequest(DecodingBody):
    """Body of ``POST /v1/completions``: text that goes on, or that fills the gap before ``suffix``."""

    prompt: Text
    suffix: Text | None = None
    """What follows the answer; it is seen from the first step."""
    echo: Literal[False] | None = None
    """The prompt is not repeated."""
    best_of: Literal[1] | None = None
    """All answers are returned."""
    logprobs: None = None
    """Chat completions alone give probabilities."""
