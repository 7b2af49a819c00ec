"""The messages of a conversation, as clients send and resend them."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from serve.api.schemas.body import OpenBody, Text, text_or_list


class TextPart(OpenBody):
    type: Literal["text"]
    text: Text


class RefusalPart(OpenBody):
    """The text with which an assistant refused to answer."""

    type: Literal["refusal"]
    refusal: Text

    @property
    def text(self) -> str:
        return self.refusal


class ImageUrl(OpenBody):
    url: str
    """A data URI with base64, or an https URL if the server fetches from its host."""
    detail: Literal["auto", "low", "high"] | None = None
    """Has no effect: the size of the image decides its tiles."""


class ImagePart(OpenBody):
    type: Literal["image_url"]
    image_url: ImageUrl

    is_video: ClassVar[bool] = False

    @property
    def url(self) -> str:
        return self.image_url.url


class VideoUrl(OpenBody):
    url: str
    """A data URI with base64, or the file:// URL of a file in a directory that the server lists."""


class VideoPart(OpenBody):
    type: Literal["video_url"]
    video_url: VideoUrl

    is_video: ClassVar[bool] = True

    @property
    def url(self) -> str:
        return self.video_url.url


MediaPart = ImagePart | VideoPart
Part = TextPart | RefusalPart | MediaPart
UserPart = Annotated[TextPart | MediaPart, Field(discriminator="type")]
AssistantPart = Annotated[TextPart | RefusalPart, Field(discriminator="type")]
OptionalText = Annotated[Text | None, Tag("text")]
"""Null counts as empty text."""
UserContent = Annotated[
    OptionalText | Annotated[list[UserPart], Field(min_length=1, fail_fast=True), Tag("list")],
    Discriminator(text_or_list),
]
TextContent = Annotated[
    OptionalText | Annotated[list[TextPart], Field(fail_fast=True), Tag("list")], Discriminator(text_or_list)
]
AssistantContent = Annotated[
    OptionalText | Annotated[list[AssistantPart], Field(fail_fast=True), Tag("list")],
    Discriminator(text_or_list),
]
"""``fail_fast``: validation of a list with many wrong items stops at the first."""


class SystemMessage(OpenBody):
    role: Literal["system", "developer"]
    content: TextContent


class UserMessage(OpenBody):
    role: Literal["user"]
    content: UserContent


class CalledFunction(OpenBody):
    name: Text
    arguments: Text
    """A JSON object as text."""


class ToolCall(OpenBody):
    """A call that the assistant made."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction


class AssistantMessage(OpenBody):
    role: Literal["assistant"]
    content: AssistantContent = None
    tool_calls: Annotated[list[ToolCall], Field(fail_fast=True)] | None = None
    function_call: None = None
    """Refused: OpenAI's earlier form of ``tool_calls``."""


class ToolMessage(OpenBody):
    """The result of a call."""

    role: Literal["tool"]
    content: TextContent
    tool_call_id: str | None = None
    """Has no effect: the model gets the results in the order of their messages."""


ChatMessage = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")
]
