"""Structured output: JSON that fits a schema. The fixed parts are on the canvas; the values are decoded."""

from serve.structured.template import JsonTemplate

__all__ = ["JsonTemplate"]
