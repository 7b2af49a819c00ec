"""Server-sent events."""

from __future__ import annotations

import json
from typing import Any

DONE = "data: [DONE]\n\n"
"""OpenAI's last event of a stream of completions."""


def server_sent(body: Any, name: str | None = None) -> str:
    """An event with a JSON body, and with a name if there is one."""
    # ASCII only: clients in many languages take U+2028 or U+0085 for the end of a line
    data = f"data: {json.dumps(body, separators=(',', ':'))}\n\n"
    return data if name is None else f"event: {name}\n{data}"
