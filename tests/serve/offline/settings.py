"""Settings of a batch for tests."""

from __future__ import annotations

from typing import Any

from serve.offline.settings import BatchSettings, load_batch


def batch_settings(**given: Any) -> BatchSettings:
    """The settings with overrides, double underscores for dots."""
    needed = {"input": "in.jsonl", "output": "out", "model": "model", "name": "llada-v-tiny"}
    return load_batch({**needed, **{key.replace("__", "."): value for key, value in given.items()}})
