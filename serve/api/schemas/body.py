"""What all parts of a request have in common: strict values, unknown fields refused, bounded objects."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from serve.decoding_params import limit_fields

Text = Annotated[str, Field(max_length=1_000_000)]
AnyObject = Annotated[dict[str, Any], BeforeValidator(limit_fields)]


class Body(BaseModel):
    """A part of a request. As the OpenAPI document says, a number is no substitute for text or a boolean."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)

    _limit_fields = model_validator(mode="before")(limit_fields)


class OpenBody(Body):
    """A part of a request whose unknown fields have no effect.

    Clients send a conversation again with fields that other servers have added to it.
    """

    model_config = ConfigDict(extra="ignore")


def text_or_list(value: Any) -> str:
    """Selects one alternative of a union by the type of a value, so that errors are about this one only."""
    return "list" if isinstance(value, list) else "text"
