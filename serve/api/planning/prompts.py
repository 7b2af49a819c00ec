"""From the messages or the text of a request to the prompt of the model."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np

from lladav.inputs.chat import SYSTEM_PROMPT, ChatTokenizer, Message, encode_prompt, join_parts
from lladav.inputs.samples import IGNORED, Encoded, Sample
from lladav.inputs.tool_text import message_text, results_text, system_text
from serve.api.schemas.chat_messages import (
    AssistantMessage,
    ChatMessage,
    ImagePart,
    Part,
    SystemMessage,
    TextPart,
    ToolCall,
    ToolMessage,
    VideoPart,
)
from serve.api.schemas.completion_requests import ChatRequest
from serve.api.schemas.tools import Tool
from serve.errors import ApiError
from serve.media.loader import MediaReference

NAME = "request"
"""Id of every prompt; the engine worker gives each answer its own."""


def media_references(messages: Sequence[ChatMessage]) -> list[MediaReference]:
    """The images and videos of a conversation in the order of their marks."""
    return [
        MediaReference(part.url, f"messages[{number}].content[{index}].{part.type}.url", part.is_video)
        for number, message in enumerate(messages)
        for index, part in enumerate(_parts(message))
        if isinstance(part, ImagePart | VideoPart)
    ]


def characters(messages: Sequence[ChatMessage]) -> int:
    """Characters of all texts of a conversation."""
    parts = (part for message in messages for part in _parts(message))
    calls = (call.function for message in messages for call in _calls(message))
    return sum(len(_text(part) or "") for part in parts) + sum(len(f.name + f.arguments) for f in calls)


def continued_text(body: ChatRequest) -> str | None:
    """The text that an answer continues: that of a last message of the assistant; None if there is none.

    Raises ``ApiError`` for fields that contradict each other or the last message.
    """
    last, new = body.messages[-1], body.add_generation_prompt
    if body.continue_final_message and new:
        raise _contradiction("add_generation_prompt and continue_final_message exclude each other; keep one")
    continues = (not new) if body.continue_final_message is None else body.continue_final_message
    if isinstance(last, AssistantMessage) and continues:
        return "\n".join(_text(part) or "" for part in _parts(last))
    if body.continue_final_message:
        raise _contradiction("continue_final_message: the last message is not the assistant's; leave it out")
    if new is False:
        raise _contradiction("add_generation_prompt: false leaves nothing to answer; leave it out")
    return None


def chat_prompt(body: ChatRequest, tools: Sequence[Tool], tokenizer: ChatTokenizer) -> Sample:
    """The conversation up to the beginning of its answer, without its images, which are read later.

    System messages are joined and stand first. A conversation without one gets the model's default one.
    ``tools`` are those that the answer may call.
    """
    mark, continued = f"<image {uuid.uuid4()}>", continued_text(body)
    messages = body.messages if continued is None else body.messages[:-1]
    turns = [_system_turn(messages, tools, mark), *_turns(messages, mark)]
    return Sample(NAME, encode_prompt(turns, tokenizer, continued or ""))


def text_prompt(text: str, tokenizer: ChatTokenizer) -> Sample:
    """A prompt of plain text, without roles."""
    return _sample([tokenizer.ids.bos, *tokenizer.encode(text)])


def token_prompt(ids: Sequence[int], vocab_size: int, param: str) -> Sample:
    """A prompt of token ids as they are; raises ``ApiError`` for an id that is not below ``vocab_size``."""
    if (largest := max(ids)) >= vocab_size:
        message = f"{param}: {largest} is no token id; the model's are below {vocab_size}"
        raise ApiError(400, message, param=param)
    return _sample(ids)


def _sample(ids: Sequence[int]) -> Sample:
    array = np.array(ids, dtype=np.int32)
    zeros = np.zeros_like(array)
    return Sample(NAME, Encoded(array, np.full_like(array, IGNORED), zeros, zeros.astype(bool)))


def check_messages(body: ChatRequest) -> None:
    """Raise ``ApiError`` unless the last message can be answered or continued."""
    continued_text(body)
    last, place = body.messages[-1], f"messages[{len(body.messages) - 1}]"
    if isinstance(last, SystemMessage):
        message = f"{place}.role: the last message is what is answered; end with one of the user"
        raise ApiError(400, message, param=f"{place}.role")
    if _calls(last):
        message = f"{place}.tool_calls: calls have results; end with messages of the role tool"
        raise ApiError(400, message, param=f"{place}.tool_calls")


def _contradiction(message: str) -> ApiError:
    return ApiError(400, message, param=message.partition(" ")[0].removesuffix(":"))


def _system_turn(messages: Sequence[ChatMessage], tools: Sequence[Tool], mark: str) -> Message:
    system = [message for message in messages if isinstance(message, SystemMessage)]
    texts = [_content(message, mark) for message in system] if system else [SYSTEM_PROMPT]
    return Message("system", system_text(texts, [_definition(tool) for tool in tools]), mark)


def _definition(tool: Tool) -> dict[str, object]:
    return tool.function.model_dump(include={"name", "description", "parameters"}, exclude_none=True)


def _turns(messages: Sequence[ChatMessage], mark: str) -> Iterator[Message]:
    """The turns besides the system message; adjacent results of calls are one turn."""
    for kind, group in groupby(messages, type):
        if kind is ToolMessage:
            yield Message("user", results_text(_content(message, mark) for message in group), mark)
        elif kind is not SystemMessage:
            yield from (_turn(message, mark) for message in group)


def _turn(message: ChatMessage, mark: str) -> Message:
    calls = [(call.function.name, _json(call.function.arguments)) for call in _calls(message)]
    return Message(message.role, message_text(_content(message, mark), calls), mark)


def _json(arguments: str) -> str:
    """Arguments as answers have them; text that is not JSON as it is."""
    try:
        return json.dumps(json.loads(arguments), ensure_ascii=False)
    except (ValueError, RecursionError):
        return arguments


def _content(message: ChatMessage, mark: str) -> str:
    return join_parts([_text(part) for part in _parts(message)], mark)


def _text(part: Part) -> str | None:
    """The text of a part; None for an image or video."""
    return None if isinstance(part, ImagePart | VideoPart) else part.text


def _calls(message: ChatMessage) -> Sequence[ToolCall]:
    return (message.tool_calls or ()) if isinstance(message, AssistantMessage) else ()


def _parts(message: ChatMessage) -> Sequence[Part]:
    content = message.content or ""
    return [TextPart(type="text", text=content)] if isinstance(content, str) else content
