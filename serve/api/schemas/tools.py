"""Fields of a request about tools: the functions that an answer may call, and whether it has to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from serve.api.schemas.body import OpenBody, Text

FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.:-]{1,64}$")]


class FunctionDefinition(OpenBody):
    name: FunctionName
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    """JSON schema of the arguments, an object; without it, the function has no arguments."""
    strict: bool | None = None
    """Has no effect: arguments always fit the schema."""


class Tool(OpenBody):
    type: Literal["function"]
    function: FunctionDefinition


class FunctionReference(OpenBody):
    name: str


class NamedTool(OpenBody):
    """A tool by the name of its function."""

    type: Literal["function"]
    function: FunctionReference


class AllowedTools(OpenBody):
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1, fail_fast=True)]


class AllowedToolsChoice(OpenBody):
    """Some of the tools, of which the answer may call some (auto) or has to call one (required)."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


def tool_choice_tag(choice: Any) -> str:
    """Selects one alternative of ``ToolChoice``, so that errors are about this one only."""
    if not isinstance(choice, Mapping | NamedTool | AllowedToolsChoice):
        return "mode"
    kind = choice.get("type") if isinstance(choice, Mapping) else choice.type
    return "allowed" if kind == "allowed_tools" else "named"


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("mode")]
    | Annotated[NamedTool, Tag("named")]
    | Annotated[AllowedToolsChoice, Tag("allowed")],
    Discriminator(tool_choice_tag),
]
