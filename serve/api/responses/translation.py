"""From a request of ``/v1/responses`` to a chat request, and the errors back.

Only this module and ``serve.api.responses.writing`` know OpenAI's Responses API: everything between them is
that of a chat request.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from serve.api.responses.schemas import (
    AllowedFunctions,
    FunctionCall,
    FunctionCallOutput,
    InputImage,
    InputItem,
    InputMessage,
    InputRefusal,
    InputText,
    JsonSchemaText,
    ResponsesRequest,
    ToolName,
)
from serve.api.schemas.completion_requests import ChatRequest
from serve.api.transport.validation import body_error
from serve.decoding_params import DecodingParams
from serve.errors import ApiError

LOGPROBS = "message.output_text.logprobs"
SAME = {
    *DecodingParams.model_fields,
    *("model", "effort", "reveal", "deadline_ms", "seed", "all_properties", "stream", "parallel_tool_calls"),
    *("store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"),
    *("top_logprobs", "user"),
}
"""Fields with the same meaning in a chat request."""
REFUSED = {
    "previous_response_id": "this server keeps no answers; send the whole conversation in input",
    "conversation": "this server keeps no conversations; send the whole conversation in input",
    "prompt": "this server keeps no prompts; send instructions and input",
    "background": "this server keeps no answers; leave it out, or use stream",
}
"""Fields that need memory between requests, and what to do instead."""
NAMES = (
    (r"\bresponse_format\.json_schema\b", "text.format"),
    (r"\bresponse_format\b", "text.format"),
    (r"\bmax_(completion_)?tokens\b", "max_output_tokens"),
    (r"\bmessages\b(?!\[)", "input"),
    (r"\.image_url\.url\b", ".image_url"),
    (r"\b(tools\[\d+\])\.function\b", r"\1"),
    (r"\breasoning_effort\b", "reasoning.effort"),
    (r"\bverbosity\b", "text.verbosity"),
)
"""Paths of fields in a chat request, and in a request of ``/v1/responses``."""
MESSAGE = re.compile(r"\bmessages\[(\d+)\]")


@dataclass
class Conversation:
    """The messages of a chat request, and the field that each comes from."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)

    def add(self, message: dict[str, Any], source: str) -> None:
        """Append a message. The calls of one answer become one message, with its text."""
        last = self.messages[-1] if self.messages else {}
        if "tool_calls" in message and last.get("role") == "assistant":
            last["tool_calls"] = [*last.get("tool_calls", ()), *message["tool_calls"]]
        else:
            self.messages.append(message)
            self.sources.append(source)

    def renamed(self, error: ApiError) -> ApiError:
        """An error about the chat request as one about the request of ``/v1/responses``."""
        message, param = self._renamed(error.message), error.param and self._renamed(error.param)
        return ApiError(error.status, message, code=error.code, param=param, retry_after=error.retry_after)

    def _renamed(self, text: str) -> str:
        return with_own_names(MESSAGE.sub(lambda found: self.sources[int(found[1])], text))


def with_own_names(text: str) -> str:
    """A line about a chat request with the names of fields in a request of ``/v1/responses``."""
    for pattern, name in NAMES:
        text = re.sub(pattern, name, text)
    return text


def conversation_of(body: ResponsesRequest) -> Conversation:
    """The messages of a request."""
    made = Conversation()
    if body.instructions is not None:
        made.add({"role": "system", "content": body.instructions}, "instructions")
    if isinstance(body.input, str):
        made.add({"role": "user", "content": body.input}, "input")
    else:
        for number, item in enumerate(body.input):
            for message in _messages(item):
                made.add(message, f"input[{number}]")
    return made


def chat_request(body: ResponsesRequest, conversation: Conversation) -> ChatRequest:
    """The chat request with the same answer; raises ``ApiError``."""
    _check_memory(body)
    if not conversation.messages:
        raise ApiError(400, "input: has no message; send one of the user", param="input")
    chat = {name: value for name, value in _chat_fields(body, conversation).items() if value is not None}
    try:
        return ChatRequest.model_validate(chat)
    except ValidationError as error:
        raise conversation.renamed(body_error(error, chat, ChatRequest)) from None


def _check_memory(body: ResponsesRequest) -> None:
    for name, reason in REFUSED.items():
        if getattr(body, name) not in (None, False):
            raise ApiError(400, f"{name}: {reason}", param=name)


def _chat_fields(body: ResponsesRequest, conversation: Conversation) -> dict[str, Any]:
    same = body.model_dump(mode="json", include=SAME, exclude_none=True)
    return {
        **same,
        "messages": conversation.messages,
        "max_completion_tokens": body.max_output_tokens,
        "logprobs": LOGPROBS in (body.include or ()) or bool(body.top_logprobs) or None,
        "response_format": _response_format(body),
        "tools": [_tool(each.model_dump(exclude_none=True)) for each in body.tools or ()] or None,
        "tool_choice": _tool_choice(body),
        "reasoning_effort": body.reasoning and body.reasoning.effort,
        "verbosity": body.text and body.text.verbosity,
    }


def _messages(item: InputItem) -> Iterator[dict[str, Any]]:
    match item:
        case InputMessage(role=role, content=content):
            yield {"role": role, "content": _content(content)}
        case FunctionCall(call_id=call_id, name=name, arguments=arguments):
            function = {"name": name, "arguments": arguments}
            call = {"id": call_id, "type": "function", "function": function}
            yield {"role": "assistant", "content": None, "tool_calls": [call]}
        case FunctionCallOutput(call_id=call_id, output=output):
            yield {"role": "tool", "tool_call_id": call_id, "content": _content(output)}


def _content(content: str | Sequence[Any]) -> str | list[dict[str, Any]]:
    return content if isinstance(content, str) else list(map(_part, content))


def _part(part: InputText | InputRefusal | InputImage) -> dict[str, Any]:
    match part:
        case InputImage(image_url=url):
            return {"type": "image_url", "image_url": {"url": url}}
        case InputRefusal(refusal=text) | InputText(text=text):
            return {"type": "text", "text": text}


def _response_format(body: ResponsesRequest) -> dict[str, Any] | None:
    format_ = body.text and body.text.format
    if isinstance(format_, JsonSchemaText):
        schema = format_.model_dump(by_alias=True, exclude={"type"}, exclude_none=True)
        return {"type": "json_schema", "json_schema": schema}
    return format_ and {"type": format_.type}


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {name: value for name, value in tool.items() if name != "type"}}


def _tool_choice(body: ResponsesRequest) -> Any:
    match body.tool_choice:
        case ToolName(name=name):
            return _tool({"name": name})
        case AllowedFunctions(mode=mode, tools=tools):
            allowed = {"mode": mode, "tools": [_tool({"name": each.name}) for each in tools]}
            return {"type": "allowed_tools", "allowed_tools": allowed}
    return body.tool_choice
