"""Body of ``POST /v1/responses``: OpenAI's fields and the params of diffusion decoding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag

from serve.api.schemas.body import AnyObject, OpenBody, Text, text_or_list
from serve.api.schemas.completion_requests import Effort
from serve.decoding_params import Count, DecodingParams, EnumText, Rule, WholeNumber


class InputText(OpenBody):
    type: Literal["input_text", "output_text", "text"]
    text: Text


class InputRefusal(OpenBody):
    type: Literal["refusal"]
    refusal: Text


class InputImage(OpenBody):
    type: Literal["input_image"]
    image_url: str
    """A data URI with base64, or an https URL if the server fetches from its host."""
    detail: str | None = None
    """Has no effect: the size of the image decides its tiles."""


InputPart = Annotated[InputText | InputRefusal | InputImage, Field(discriminator="type")]
TextOrParts = Annotated[
    Annotated[Text, Tag("text")]
    | Annotated[list[InputPart], Field(min_length=1, fail_fast=True), Tag("list")],
    Discriminator(text_or_list),
]


class InputMessage(OpenBody):
    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: TextOrParts


class FunctionCall(OpenBody):
    """A call that an earlier answer made."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: Text


class FunctionCallOutput(OpenBody):
    """The result of a call."""

    type: Literal["function_call_output"]
    call_id: str
    output: TextOrParts


class Reasoning(OpenBody):
    """Has no effect: this model does not reason apart from its answer."""

    type: Literal["reasoning"]


def item_tag(item: Any) -> str | None:
    """Selects one alternative of ``InputItem`` for a value; without a type it is a message."""
    kind = item.get("type", "message") if isinstance(item, Mapping) else getattr(item, "type", None)
    return kind if isinstance(kind, str) else None


InputItem = Annotated[
    Annotated[InputMessage, Tag("message")]
    | Annotated[FunctionCall, Tag("function_call")]
    | Annotated[FunctionCallOutput, Tag("function_call_output")]
    | Annotated[Reasoning, Tag("reasoning")],
    Discriminator(item_tag),
]


Input = Annotated[
    Annotated[Text, Tag("text")]
    | Annotated[list[InputItem], Field(min_length=1, fail_fast=True), Tag("list")],
    Discriminator(text_or_list),
]


class PlainText(OpenBody):
    type: Literal["text"]


class JsonObject(OpenBody):
    type: Literal["json_object"]


class JsonSchemaText(OpenBody):
    type: Literal["json_schema"]
    name: Annotated[str, Field(max_length=64)]
    description: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    """JSON Schema of the answer; the documentation lists what is supported."""
    strict: bool | None = None
    """Has no effect: answers always fit the schema."""


class TextConfig(OpenBody):
    format: Annotated[PlainText | JsonObject | JsonSchemaText, Field(discriminator="type")] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    """Has no effect."""


class ReasoningConfig(OpenBody):
    effort: str | None = None
    """Has no effect."""


class FunctionTool(OpenBody):
    type: Literal["function"]
    name: str
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    """JSON schema of the arguments."""
    strict: bool | None = None
    """Has no effect: arguments always fit the schema."""


class ToolName(OpenBody):
    type: Literal["function"]
    name: str


class AllowedFunctions(OpenBody):
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[ToolName]


def choice_tag(choice: Any) -> str:
    """Selects one alternative of ``FunctionChoice`` for a value, so that errors are about this one only."""
    if isinstance(choice, str):
        return "mode"
    return "allowed" if item_tag(choice) == "allowed_tools" else "named"


FunctionChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("mode")]
    | Annotated[ToolName, Tag("named")]
    | Annotated[AllowedFunctions, Tag("allowed")],
    Discriminator(choice_tag),
]


class ResponsesRequest(DecodingParams):
    """Body of ``POST /v1/responses``."""

    model_config = ConfigDict(strict=True)

    model: str
    input: Input
    """A text, or messages with texts and images, calls and their results."""
    instructions: Text | None = None
    """The system message."""
    max_output_tokens: Count | None = None
    """Longest answer, in tokens."""
    text: TextConfig | None = None
    """``format`` is the structure of the answer."""
    tools: Annotated[list[FunctionTool], Field(fail_fast=True)] | None = None
    """Functions that the answer may call."""
    tool_choice: FunctionChoice | None = None
    """none: the answer is text; auto (default): text or calls; required: calls; or the only function."""
    parallel_tool_calls: bool | None = None
    """Whether an answer may have several calls."""
    include: list[str] | None = None
    """``message.output_text.logprobs`` asks for the probabilities of tokens; others have no effect."""
    top_logprobs: Annotated[int, Field(ge=0, le=20), WholeNumber] | None = None
    """Number of candidates for each token."""
    stream: bool | None = None
    stream_options: AnyObject | None = None
    """Has no effect."""
    effort: Annotated[Effort | None, EnumText] = None
    """A preset of settings; settings in the request override it."""
    reveal: Annotated[Rule | None, EnumText] = None  # pyright: ignore[reportInvalidTypeForm] - made of the table
    """The rule that decides how many tokens a step unmasks; a parameter of a rule selects it, too."""
    deadline_ms: Count | None = None
    """The request ends with 504 after this time."""
    seed: Annotated[int, Field(ge=-(2**62), lt=2**62), WholeNumber] | None = None
    """Seed of the sampling: the same request with the same seed gets the same answer."""
    all_properties: bool | None = None
    """Whether the answer has all properties that a JSON schema lists."""
    previous_response_id: str | None = None
    """Refused: the server keeps no answers."""
    conversation: Any = None
    """Refused, as above."""
    prompt: Any = None
    """Refused: the server keeps no prompts."""
    background: bool | None = None
    """true is refused: the server keeps no answers."""
    reasoning: ReasoningConfig | None = None
    metadata: dict[str, str] | None = None
    """Returned, without other effect."""
    max_tool_calls: Count | None = None
    """Has no effect: it limits tools of OpenAI."""
    store: bool | None = None
    """Has no effect: nothing is stored."""
    truncation: Literal["auto", "disabled"] | None = None
    """Has no effect: a request that is too long is refused."""
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    user: str | None = None
    """Has no effect, as the fields above."""
