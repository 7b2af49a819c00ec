"""Which tools an answer may call, and whether it has to: from the fields of a request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from serve.api.planning.prompts import continued_text
from serve.api.schemas.completion_requests import ChatRequest, DecodingBody
from serve.api.schemas.tools import AllowedToolsChoice, NamedTool, Tool
from serve.errors import ApiError

EARLIER = {"functions": "tools", "function_call": "tool_choice"}
"""OpenAI's earlier fields, which are refused, and their successors."""


@dataclass(frozen=True)
class RequestedTools:
    """The tools that an answer may call, by their index in ``tools``. There is at least one."""

    by_index: dict[int, Tool]
    required: bool
    """Whether the answer has to call one; otherwise it may be text."""
    parallel: bool
    """Whether it may have several calls."""


def requested_tools(body: DecodingBody) -> RequestedTools | None:
    """The tools that an answer may call; None if it may call none. Raises ``ApiError``.

    An answer that continues a message is text.
    """
    if not isinstance(body, ChatRequest):
        return None
    found = _requested(body)
    if found is None or continued_text(body) is None:
        return found
    if found.required:
        raise _error("tool_choice", "an answer that continues a message calls no tools; choose none or auto")
    return None


def _requested(body: ChatRequest) -> RequestedTools | None:
    _check_earlier(body)
    tools, choice = body.tools or [], body.tool_choice
    _check_names(tools)
    if choice == "none" or (not tools and choice in (None, "auto")):
        return None
    if not tools:
        raise _error("tool_choice", "there are no tools; send some, or leave it out")
    parallel = body.parallel_tool_calls is not False
    match choice:
        case NamedTool(function=function):
            return RequestedTools(_named(tools, [function.name]), required=True, parallel=False)
        case AllowedToolsChoice(allowed_tools=allowed):
            by_index = _named(tools, [each.function.name for each in allowed.tools])
            return RequestedTools(by_index, allowed.mode == "required", parallel)
    return RequestedTools(dict(enumerate(tools)), choice == "required", parallel)


def requires_calls(body: DecodingBody) -> bool:
    """Whether the answer has to call a tool."""
    requested = requested_tools(body)
    return requested is not None and requested.required


def callable_tools(body: DecodingBody) -> list[Tool]:
    """The tools that an answer may call."""
    requested = requested_tools(body)
    return [] if requested is None else list(requested.by_index.values())


def _check_earlier(body: ChatRequest) -> None:
    for field, successor in EARLIER.items():
        if getattr(body, field) is not None:
            raise _error(field, f"OpenAI's earlier form is not supported; use {successor}")


def _check_names(tools: Sequence[Tool]) -> None:
    names = [tool.function.name for tool in tools]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise _error(
                f"tools[{index}].function.name", f"{name} is used above; names differ from each other"
            )


def _named(tools: Sequence[Tool], names: Sequence[str]) -> dict[int, Tool]:
    """The tools of some names; raises ``ApiError`` for a name that no tool has."""
    known = [tool.function.name for tool in tools]
    if unknown := [name for name in names if name not in known]:
        raise _error("tool_choice", f"no tool is named {unknown[0]!r}; use one of {', '.join(known)}")
    return {index: tool for index, tool in enumerate(tools) if tool.function.name in names}


def _error(param: str, reason: str) -> ApiError:
    return ApiError(400, f"{param}: {reason}", param=param)
