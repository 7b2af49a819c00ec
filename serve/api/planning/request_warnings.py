"""Lines about what a request asks for and does not get."""

from __future__ import annotations

from collections.abc import Iterator

from serve.api.planning.request_limits import requested_max_tokens
from serve.api.planning.tools import requested_tools
from serve.api.schemas.completion_requests import ChatRequest, DecodingBody
from serve.engine.messages import EngineRequest


def request_warnings(body: DecodingBody, request: EngineRequest, max_tokens: int) -> list[str]:
    """A line for each setting of a request that has no effect or is changed.

    ``max_tokens`` is the length of an answer as the server limits it.
    """
    lines = [*_of_options(request), *_of_fields(body), *_of_length(body, max_tokens)]
    return [*lines, *_of_chat(body, request)] if isinstance(body, ChatRequest) else lines


def _of_options(request: EngineRequest) -> Iterator[str]:
    options = request.options
    if request.refresh is not None:
        options = options.with_refresh_interval(request.refresh.min)
    yield from options.warnings
    if request.choices > 1 and options.greedy:
        yield "n above 1 at temperature 0 gives the same answer each time"


def _of_fields(body: DecodingBody) -> Iterator[str]:
    for name in body.ignored:
        yield f"{name} has no effect"
    if body.allow_eos and body.ignore_eos:
        yield "allow_eos has no effect: with ignore_eos nothing ends the answer"
    if body.logit_bias == {}:
        yield "logit_bias has no effect: it is empty"


def _of_length(body: DecodingBody, max_tokens: int) -> Iterator[str]:
    requested, field = requested_max_tokens(body)
    if requested is not None and requested > max_tokens:
        yield f"{field} {requested} is above the limit of this server or key: it is {max_tokens}"


def _of_chat(body: ChatRequest, request: EngineRequest) -> Iterator[str]:
    if body.top_logprobs and not body.logprobs:
        yield "top_logprobs has no effect without logprobs"
    yield from _of_tools(body, calls_fit=request.structure is not None)


def _of_tools(body: ChatRequest, calls_fit: bool) -> Iterator[str]:
    callable_now = requested_tools(body) is not None
    if body.tools == []:
        yield "tools has no effect: it is empty"
    if callable_now and not calls_fit:
        yield "tools has no effect: no call fits in max_tokens"
    if body.tools and body.tool_choice != "none" and not callable_now:
        yield "tools has no effect: the answer continues a message"
    if body.parallel_tool_calls is not None and not callable_now:
        yield "parallel_tool_calls has no effect: the answer may call no tools"
