"""Bodies of requests: OpenAI's fields and the params of diffusion decoding. Unknown fields are refused."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, cast

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
from serve.engine.messages import StreamMode

Text = Annotated[str, Field(max_length=1_000_000)]
StopText = Annotated[str, Field(min_length=1, max_length=256)]
"""Short, because an engine compares each prefix of it with the answer at every step."""


def stop_tag(stop: Any) -> str:
    """Selects one alternative of ``Stop`` for a value, so that errors are about this one only."""
    return "list" if isinstance(stop, list) else "text"


Stop = Annotated[
    Annotated[StopText, Tag("text")] | Annotated[list[StopText], Field(fail_fast=True), Tag("list")],
    Discriminator(stop_tag),
]


class Body(BaseModel):
    """A part of a request. As the OpenAPI document says, a number is no substitute for text or a boolean."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)

    _limit_fields = model_validator(mode="before")(limit_fields)


class Effort(StrEnum):
    """Presets of settings; the server's configuration says what each stands for."""

    fast = "fast"
    balanced = "balanced"
    accurate = "accurate"


class StreamOptions(Body):
    include_usage: bool = False
    """Whether a last chunk has the usage."""
    continuous_usage_stats: bool = False
    """Whether each chunk has the token counts so far; load generators ask for it."""


class TextPart(Body):
    type: Literal["text"]
    text: Text


class ImageUrl(Body):
    url: str
    """A data URI with base64, or an https URL if the server fetches from its host."""
    detail: Literal["auto", "low", "high"] = "auto"
    """Has no effect: the size of the image decides its tiles."""


class ImagePart(Body):
    type: Literal["image_url"]
    image_url: ImageUrl

    is_video: ClassVar[bool] = False

    @property
    def url(self) -> str:
        return self.image_url.url


class VideoUrl(Body):
    url: str
    """A data URI with base64, or the file:// URL of a file in a directory that the server lists."""


class VideoPart(Body):
    type: Literal["video_url"]
    video_url: VideoUrl

    is_video: ClassVar[bool] = True

    @property
    def url(self) -> str:
        return self.video_url.url


MediaPart = ImagePart | VideoPart
Part = Annotated[TextPart | MediaPart, Field(discriminator="type")]
Parts = Annotated[list[Part], Field(min_length=1, fail_fast=True)]
TextParts = Annotated[list[TextPart], Field(fail_fast=True)]
"""``fail_fast``: validation of a list with many wrong items stops at the first."""


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
    """JSON Schema of the answer; the documentation lists what is supported."""
    strict: bool | None = None
    """Has no effect: answers always fit the schema."""


class PlainFormat(Body):
    type: Literal["text"]


class ObjectFormat(Body):
    """Any JSON object."""

    type: Literal["json_object"]


class SchemaFormat(Body):
    type: Literal["json_schema"]
    json_schema: JsonSchema


def schema_tag(schema: Any) -> str:
    """Selects one alternative of ``SchemaOrText`` for a value, so that errors are about this one only."""
    return "text" if isinstance(schema, str) else "object"


SchemaOrText = Annotated[
    Annotated[Text, Tag("text")] | Annotated[dict[str, Any], Tag("object")], Discriminator(schema_tag)
]
"""A JSON schema, or its JSON text."""
Choices = Annotated[list[Text], Field(min_length=1, fail_fast=True)]


class StructuredOutputs(Body):
    """vLLM's field for the structure of an answer; exactly one of its fields is given."""

    json_: Annotated[SchemaOrText | None, Field(alias="json")] = None
    """The answer is JSON that fits this schema."""
    regex: Text | None = None
    """The whole answer matches this regular expression."""
    choice: Choices | None = None
    """The answer is one of these texts."""
    json_object: bool | None = None
    """The answer is a JSON object."""
    grammar: Any = None
    """Refused: grammars are not supported."""
    structural_tag: Any = None
    """Refused, as above."""


class VideoSampling(Body):
    num_frames: Count | None = None
    """Frames of each video, evenly spread; the model's number by default, which is also the limit."""


class MediaSampling(Body):
    video: VideoSampling | None = None


class DecodingBody(DecodingParams):
    """Fields of both kinds of completion."""

    model_config = ConfigDict(strict=True)

    model: str
    max_tokens: Count | None = None
    """Longest answer, in tokens."""
    effort: Annotated[Effort | None, EnumText] = None
    """A preset of settings; settings in the request override it."""
    reveal: Annotated[Rule | None, EnumText] = None  # pyright: ignore[reportInvalidTypeForm] - made of the table
    """The rule that decides how many tokens a step unmasks; a parameter of a rule selects it, too."""
    deadline_ms: Count | None = None
    """The request ends with 504 after this time. It gets the smallest refresh interval that is expected to
    finish in time; without ``refresh_interval`` that is the server's default unless the deadline requires
    more."""
    stop: Stop | None = None
    """Texts that end an answer; the answer does not include them."""
    ignore_eos: bool = False
    """Fill ``max_tokens`` with text: the end of a turn is never written. For load generators."""
    seed: Annotated[int, Field(ge=-(2**62), lt=2**62), WholeNumber] | None = None
    """Seed of the sampling: the same request with the same seed gets the same answer."""
    n: Count | None = None
    """Number of answers, each sampled independently; 1 by default."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stream_mode: Annotated[StreamMode, EnumText] = StreamMode.committed
    """committed: text is only ever appended. denoise: an additional field shows every step."""
    response_format: (
        Annotated[PlainFormat | ObjectFormat | SchemaFormat, Field(discriminator="type")] | None
    ) = None
    """json_schema: the answer is JSON that fits the schema. json_object: it is any JSON object."""
    structured_outputs: StructuredOutputs | None = None
    """The structure of the answer, as vLLM's clients describe it."""
    guided_json: SchemaOrText | None = None
    """The earlier name of structured_outputs.json."""
    guided_regex: Text | None = None
    """The earlier name of structured_outputs.regex."""
    guided_choice: Choices | None = None
    """The earlier name of structured_outputs.choice."""
    guided_grammar: Any = None
    """Refused: grammars are not supported."""
    structural_tag: Any = None
    """Refused, as above."""
    all_properties: bool | None = None
    """Whether the answer has all properties that a JSON schema lists; otherwise the model chooses among the
    optional ones. By default the server decides."""
    user: str | None = None
    """Has no effect."""

    @property
    def choices(self) -> int:
        """Number of answers."""
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
    """Whether each token comes with the logarithm of its probability when it was unmasked."""
    top_logprobs: Literal[0] | None = None
    """Other candidates are not available."""
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    """0 only: penalties have no meaning if tokens are not written in order."""
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    """0 only, as above."""
    media_io_kwargs: MediaSampling | None = None
    """How videos are read; vLLM's field, which LMMs-Eval sends."""
    metadata: Annotated[dict[str, str], BeforeValidator(limit_fields)] | None = None
    """Has no effect."""
    store: Literal[False] | None = None
    """Nothing is stored."""

    @property
    def frames(self) -> int | None:
        """Most frames of each video; None: the model's number."""
        sampling = self.media_io_kwargs and self.media_io_kwargs.video
        return sampling.num_frames if sampling else None


TokenIds = Annotated[
    list[Annotated[int, Field(ge=0, lt=2**31), WholeNumber]], Field(min_length=1, fail_fast=True)
]


def prompt_tag(prompt: Any) -> str:
    """Selects one alternative of ``Prompt`` for a value, so that errors are about this one only."""
    if not isinstance(prompt, list):
        return "text"
    first = prompt[0] if prompt else ""
    return {str: "texts", list: "token lists"}.get(type(first), "tokens")


Prompt = Annotated[
    Annotated[Text, Tag("text")]
    | Annotated[list[Text], Field(min_length=1, fail_fast=True), Tag("texts")]
    | Annotated[TokenIds, Tag("tokens")]
    | Annotated[list[TokenIds], Field(min_length=1, fail_fast=True), Tag("token lists")],
    Discriminator(prompt_tag),
]
"""A text or its token ids, or a list of either."""


class CompletionRequest(DecodingBody):
    """Body of ``POST /v1/completions``: text that continues a prompt, or fills the gap before ``suffix``."""

    prompt: Prompt
    """One prompt or several, as text or as token ids; the first ``n`` choices answer the
    first one. Token ids are the whole prompt; a text gets BOS in front."""
    suffix: Text | None = None
    """Text that follows the answer; it is visible from the first step."""
    echo: Literal[False] | None = None
    """The answer does not repeat the prompt."""
    best_of: Literal[1] | None = None
    """All answers are returned."""
    logprobs: None = None
    """Only chat completions give probabilities."""

    @property
    def prompts(self) -> dict[str, str | list[int]]:
        """The prompts by the paths of their fields."""
        prompt = self.prompt
        if isinstance(prompt, str):
            return {"prompt": prompt}
        if isinstance(prompt[0], int):
            return {"prompt": cast(list[int], prompt)}
        return {f"prompt[{number}]": cast(str | list[int], each) for number, each in enumerate(prompt)}
