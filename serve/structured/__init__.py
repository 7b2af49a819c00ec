"""Structured output: JSON of a schema, its fixed parts on the canvas and its values decoded."""

from serve.structured.skeleton import Skeleton

__all__ = ["Skeleton"]
