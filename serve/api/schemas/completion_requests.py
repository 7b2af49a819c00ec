"""Bodies of requests: OpenAI's fields and the params of diffusion decoding. Unknown fields are refused."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal, cast

from pydantic import ConfigDict, Discriminator, Field, Tag

from lladav.decoding.params import MAX_BIAS, MAX_TOP_LOGPROBS
from serve.api.schemas.body import Body, OpenBody, Text, text_or_list
from serve.api.schemas.chat_messages import ChatMessage
from serve.api.schemas.ignored_fields import IgnoredFields
from serve.api.schemas.tools import Tool, ToolChoice
from serve.decoding_params import Count, DecodingParams, EnumText, Rule, WholeNumber
from serve.engine.messages import StreamMode

StopText = Annotated[str, Field(min_length=1, max_length=256)]
"""Short, because an engine compares each prefix of it with the answer at every step."""
Stop = Annotated[
    Annotated[StopText, Tag("text")] | Annotated[list[StopText], Field(fail_fast=True), Tag("list")],
    Discriminator(text_or_list),
]


MAX_BIASES = 1024
"""Tokens with a bias, at most."""
TokenId = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]
"""A number, as text: keys of objects are."""
LogitBias = dict[TokenId, Annotated[float, Field(ge=-MAX_BIAS, le=MAX_BIAS)]]


class Effort(StrEnum):
    """Presets of settings; the server's configuration says what each stands for."""

    fast = "fast"
    balanced = "balanced"
    accurate = "accurate"


class StreamOptions(OpenBody):
    include_usage: bool | None = False
    """Whether a last chunk has the usage."""
    continuous_usage_stats: bool | None = False
    """Whether each chunk has the token counts so far; load generators ask for it."""


class JsonSchema(OpenBody):
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


class DecodingBody(DecodingParams, IgnoredFields):
    """Fields of both kinds of completion."""

    model_config = ConfigDict(strict=True)

    model: str
    max_tokens: Count | None = None
    """Longest answer, in tokens; a number above the limit counts as the limit."""
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
    logit_bias: Annotated[LogitBias, Field(max_length=MAX_BIASES)] | None = None
    """What is added to the logits of token ids at every position."""
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

    @property
    def biases(self) -> dict[int, float]:
        """The bias of logits by token id."""
        return {int(token): bias for token, bias in (self.logit_bias or {}).items()}

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
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS), WholeNumber] | None = None
    """How many of the most probable tokens come with each token."""
    media_io_kwargs: MediaSampling | None = None
    """How videos are read; vLLM's field, which LMMs-Eval sends."""
    tools: Annotated[list[Tool], Field(fail_fast=True)] | None = None
    """Functions that the answer may call."""
    tool_choice: ToolChoice | None = None
    """none: the answer is text; auto (default): text or calls; required: calls; or the function to call."""
    parallel_tool_calls: bool | None = None
    """Whether an answer may have several calls; yes by default."""
    functions: Any = None
    """Refused: OpenAI's earlier form of ``tools``."""
    function_call: Any = None
    """Refused: OpenAI's earlier form of ``tool_choice``."""
    add_generation_prompt: bool | None = None
    """Whether a new message of the assistant begins after the last message; vLLM's field."""
    continue_final_message: bool | None = None
    """Whether the answer continues the last message, which is the assistant's; vLLM's field. By default it
    does if the last message is the assistant's."""

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
    best_of: Annotated[int, Field(ge=1, le=1), WholeNumber] | None = None
    """Only 1: all answers are returned."""
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
