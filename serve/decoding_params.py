"""The knobs of diffusion as requests and presets give them.

Ranges are those of ``DecodingOptions``, which also checks how knobs fit together.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    create_model,
    model_validator,
)

from lladav.config.introspection import field_docs
from lladav.decoding.params import MAX_SCALE, Cache
from lladav.decoding.unmasking import RULES, ParameterRange, UnmaskingOptions, rule_parameters


def _whole(value: Any) -> Any:
    """JSON knows one kind of number: 3.0 is an integer there."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


WholeNumber = BeforeValidator(_whole)
EnumText = Field(strict=False)
"""JSON has no enumerations: their members come as text."""
Count = Annotated[int, Field(ge=1), WholeNumber]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Scale = Annotated[float, Field(ge=0, le=MAX_SCALE, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1)]


MAX_FIELDS = 100
"""Fields of an object, at most; none that is documented has as many."""


def limit_fields(value: Any) -> Any:
    """The value, unless it is an object with more fields than any has: each would be a finding of its own."""
    if isinstance(value, Mapping) and len(value) > MAX_FIELDS:
        raise ValueError(f"{len(value)} fields are more than the {MAX_FIELDS} of any object; remove some")
    return value


class IntervalRange(BaseModel):
    """A range of refresh intervals; the smallest that load and deadline allow is used."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    min: Count
    max: Count

    _few_fields = model_validator(mode="before")(limit_fields)

    @model_validator(mode="after")
    def _ascends(self) -> Self:
        if self.min > self.max:
            raise ValueError("min is above max; swap them")
        return self


def interval_tag(interval: Any) -> str:
    """Decides what a value is meant to be, so that what is wrong with it is told of one alone."""
    return "range" if isinstance(interval, Mapping | IntervalRange) else "number"


RefreshInterval = Annotated[
    Annotated[Count, Tag("number")] | Annotated[IntervalRange, Tag("range")], Discriminator(interval_tag)
]


FIELD_TYPES: dict[ParameterRange, Any] = {
    ParameterRange.count: Count,
    ParameterRange.probability: Share,
    ParameterRange.positive: Positive,
}
_DOCS = field_docs(UnmaskingOptions)
RuleFields = create_model(
    "RuleFields",
    **{  # pyright: ignore[reportArgumentType, reportCallIssue] - one field for each parameter in the table
        name: (FIELD_TYPES[bounds] | None, Field(default=None, description=_DOCS[name]))
        for name, bounds in rule_parameters().items()
    },
)
"""The parameters of the unmasking rules."""
Rule = StrEnum("Rule", [(name, name) for name in RULES])
"""Names of the unmasking rules."""


class DecodingParams(RuleFields):
    """Settings of decoding; whatever is left out falls to a preset, then to the server's defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    _few_fields = model_validator(mode="before")(limit_fields)

    refresh_interval: RefreshInterval | None = None
    """Steps from one refresh of keys and values to the next: 1 is exact, more is faster and less faithful. A
    range, {min, max}, leaves the choice to the server."""
    block_length: Count | None = None
    """Blocks of the answer are filled one after another."""
    cache: Annotated[Cache | None, EnumText] = None
    """What steps between refreshes take from the last one: none, prefix (what lies before the block) or dual
    (both sides of it)."""
    guidance: Scale | None = None
    """Classifier-free guidance: how far to move away from what the model would say without the prompt."""
    temperature: Scale | None = None
    """Of sampling; 0 takes the most probable token."""
    top_p: Share | None = None
    """Sample among the most probable tokens that hold so much of the probability."""

    @property
    def intervals(self) -> list[int]:
        """The refresh interval, or both ends of its range; none where it is left out."""
        if isinstance(self.refresh_interval, IntervalRange):
            return [self.refresh_interval.min, self.refresh_interval.max]
        return [] if self.refresh_interval is None else [self.refresh_interval]

    def given(self) -> dict[str, Any]:
        """The knobs that have a value; fields of a subclass are none."""
        values = {name: getattr(self, name) for name in DecodingParams.model_fields}
        return {name: value for name, value in values.items() if value is not None}
