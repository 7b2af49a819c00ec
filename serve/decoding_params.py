"""Decoding params of requests and presets.

Ranges are those of ``DecodingOptions``, which also checks that params fit together.
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
from lladav.decoding.params import MAX_FACTOR, MAX_PENALTY, MAX_SCALE, MIN_FACTOR, Cache
from lladav.decoding.unmasking import RULES, ParameterRange, UnmaskingOptions, rule_parameters


def _integral(value: Any) -> Any:
    """An integral float as an integer: JSON has one kind of number, so 3.0 is an integer."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


WholeNumber = BeforeValidator(_integral)
EnumText = Field(strict=False)
"""Lets a strict model accept an enumeration's value as text: JSON has no enumerations."""
Count = Annotated[int, Field(ge=1), WholeNumber]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Scale = Annotated[float, Field(ge=0, le=MAX_SCALE, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1)]
ShareOrNothing = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-MAX_PENALTY, le=MAX_PENALTY)]
PenaltyFactor = Annotated[float, Field(ge=MIN_FACTOR, le=MAX_FACTOR)]
TopK = Annotated[int, Field(ge=-1), WholeNumber]


MAX_FIELDS = 100
"""Limit of the fields of an object, far above any documented object."""


def limit_fields(value: Any) -> Any:
    """The value. Raises ``ValueError`` for an object with too many fields: each would be an error."""
    if isinstance(value, Mapping) and len(value) > MAX_FIELDS:
        raise ValueError(f"{len(value)} fields are more than the {MAX_FIELDS} of any object; remove some")
    return value


class IntervalRange(BaseModel):
    """A range of refresh intervals; the server uses the smallest that load and deadline allow."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    min: Count
    max: Count

    _limit_fields = model_validator(mode="before")(limit_fields)

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.min > self.max:
            raise ValueError("min is above max; swap them")
        return self


def interval_tag(interval: Any) -> str:
    """Selects one alternative of ``RefreshInterval``, so that errors are about this one only."""
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
    """Decoding params; one that is left out comes from a preset, then from the server's defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    _limit_fields = model_validator(mode="before")(limit_fields)

    refresh_interval: RefreshInterval | None = None
    """Steps from one refresh of the KV cache to the next: 1 is exact, more is faster and less accurate. A
    range, {min, max}, leaves the choice to the server."""
    block_length: Count | None = None
    """Tokens of a block; blocks of the answer are filled one after another."""
    cache: Annotated[Cache | None, EnumText] = None
    """Keys and values that steps between refreshes reuse: none, prefix (of positions before the block) or
    dual (of both sides of the block)."""
    allow_eos: bool | None = None
    """Whether the answer may contain EOS, which ends it; by default as the model is configured."""
    guidance: Scale | None = None
    """Scale of classifier-free guidance: how far to move away from the answer without the prompt."""
    temperature: Scale | None = None
    """Temperature of the sampling; 0 takes the most probable token."""
    top_k: TopK | None = None
    """Sample among this many most probable tokens; 0 and -1: among all."""
    top_p: ShareOrNothing | None = None
    """Sample among the most probable tokens that together have this probability; 0 takes the most probable
    one."""
    min_p: ShareOrNothing | None = None
    """Sample among the tokens with at least this share of the probability of the most probable one."""
    repetition_penalty: PenaltyFactor | None = None
    """Logits of tokens that the answer has are divided by this if they are positive, and multiplied by it if
    they are negative. The prompt does not count."""
    frequency_penalty: Penalty | None = None
    """What is taken off the logit of a token for each time that the answer has it."""
    presence_penalty: Penalty | None = None
    """What is taken off the logit of each token that the answer has."""
    no_repeat_ngram: Count | None = None
    """No sequence of this many tokens occurs twice in the answer."""

    @property
    def intervals(self) -> list[int]:
        """The refresh interval, or both ends of its range; empty if it is left out."""
        if isinstance(self.refresh_interval, IntervalRange):
            return [self.refresh_interval.min, self.refresh_interval.max]
        return [] if self.refresh_interval is None else [self.refresh_interval]

    def given(self) -> dict[str, Any]:
        """The params that have a value, without fields of a subclass."""
        values = {name: getattr(self, name) for name in DecodingParams.model_fields}
        given = {name: value for name, value in values.items() if value is not None}
        return (
            {**given, "top_k": given["top_k"] if given["top_k"] > 0 else None} if "top_k" in given else given
        )
