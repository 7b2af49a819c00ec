"""Multimodal masked-diffusion language models: the library."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
"""The version of the package; ``pyproject.toml`` reads it."""


def __getattr__(name: str) -> Any:
    """Import ``lladav.generate`` on first use, so that settings load without torch."""
    if name != "generate":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lladav.generation import generate

    globals()["generate"] = generate
    return generate
