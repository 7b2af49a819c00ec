"""How tools, calls and results are written in a prompt and in an answer.

The chat template of LLaDA-V and Llama 3 has no role for tools, so they are text, in the form that Hermes and
Qwen use: definitions end the system message, a call is a part of the assistant's message, and results are a
message of the user. Answers have calls in the same form.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

CALL_MARK = "<"
"""The first character of a call, with which no JSON begins."""
CALL_END = "}\n</tool_call>"
"""What follows the arguments of a call."""
BETWEEN_CALLS = "\n"


def system_text(texts: Iterable[str], functions: Sequence[Mapping[str, Any]]) -> str:
    """The system message: its texts as paragraphs, then the definitions of ``functions`` if there are any."""
    return "\n\n".join([*texts, *([tools_text(functions)] if functions else [])])


def tools_text(functions: Iterable[Mapping[str, Any]]) -> str:
    """The end of the system message: functions by name, description and schema of their arguments."""
    lines = (json.dumps({"type": "function", "function": each}, ensure_ascii=False) for each in functions)
    return "\n".join(
        (
            "You can call functions. Each has a name, a description and a JSON schema of its arguments.",
            "<tools>",
            *lines,
            "</tools>",
            "Write a call as JSON with the name of the function and its arguments:",
            call_text("NAME", "{ARGUMENTS}"),
        )
    )


def call_start(name: str) -> str:
    """What stands before the arguments of a call."""
    return f'<tool_call>\n{{"name": {json.dumps(name)}, "arguments": '


def call_text(name: str, arguments: str) -> str:
    """A call; ``arguments`` is a JSON object."""
    return f"{call_start(name)}{arguments}{CALL_END}"


def message_text(content: str, calls: Sequence[tuple[str, str]]) -> str:
    """A message of the assistant: its text, then its calls by name and arguments."""
    return BETWEEN_CALLS.join([*([content] if content else []), *(call_text(*call) for call in calls)])


def results_text(results: Iterable[str]) -> str:
    """The message of the user that holds the results of calls."""
    return "\n".join(f"<tool_response>\n{result}\n</tool_response>" for result in results)
