"""Structured output: JSON of a schema, its fixed parts on the canvas and its values decoded."""

from serve.structured.template import Skeleton

__all__ = ["Skeleton"]
