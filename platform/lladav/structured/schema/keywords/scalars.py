"""Keywords about strings and numbers."""

from __future__ import annotations

from lladav.structured.errors import SchemaError
from lladav.structured.forms import NumberForm, StringForm
from lladav.structured.schema.constraints.numeric import NumberConstraints
from lladav.structured.schema.constraints.scalars import StringConstraints
from lladav.structured.schema.formulas import TRUE, Formula, Unenforceable, held, held_only
from lladav.structured.schema.json_values import FORMATS, JsonType, exact
from lladav.structured.schema.subschemas import Subschema

BASE64 = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$"
"""Strings that are the base64 of some bytes."""


def min_length(subschema: Subschema, kind: JsonType) -> Formula:
    del kind
    count = int(subschema.get("minLength"))
    shorter = [StringConstraints(StringForm(max_length=count - 1))] if count else []
    return held(StringConstraints(StringForm(min_length=count)), *shorter)


def max_length(subschema: Subschema, kind: JsonType) -> Formula:
    del kind
    count = int(subschema.get("maxLength"))
    longer = StringConstraints(StringForm(min_length=count + 1))
    return held(StringConstraints(StringForm(max_length=count)), longer)


def pattern(subschema: Subschema, kind: JsonType) -> Formula:
    del kind
    expressions = (subschema.get("pattern"),)
    without = StringConstraints(StringForm(not_patterns=expressions))
    return held(StringConstraints(StringForm(patterns=expressions)), without)


def format_keyword(subschema: Subschema, kind: JsonType) -> Formula:
    """Known formats are asserted. No string violates one for certain: for some validators it only informs."""
    del kind
    name = subschema.get("format")
    if name not in FORMATS:
        return TRUE
    return held_only(StringConstraints(StringForm(formats=(name,))), subschema, "format")


def content_encoding(subschema: Subschema, kind: JsonType) -> Formula:
    """Base64, which some validators assert in drafts 6 and 7. No string violates it for certain."""
    del kind
    if subschema.get("contentEncoding") != "base64":
        return TRUE
    return held_only(StringConstraints(StringForm(patterns=(BASE64,))), subschema, "contentEncoding")


def content_media_type(subschema: Subschema, kind: JsonType) -> Formula:
    """JSON in a string, which some validators assert in drafts 6 and 7. It is no regular language."""
    del kind
    if subschema.get("contentMediaType") != "application/json":
        return TRUE
    path = f"{subschema.path}/contentMediaType"
    reason = "is an assertion in drafts 6 and 7 and is not supported; use draft 2020-12"
    return (Unenforceable(SchemaError(path, reason)),)


def _numbers(form: NumberForm, otherwise: NumberForm) -> Formula:
    """Numbers of a form; those of the other one do not have it."""
    return held(NumberConstraints(form), NumberConstraints(otherwise))


def minimum(subschema: Subschema, kind: JsonType) -> Formula:
    """``minimum``; in draft 4, ``exclusiveMinimum`` is a switch beside it."""
    del kind
    low, excluded = exact(subschema.get("minimum")), subschema.get("exclusiveMinimum") is True
    return _numbers(
        NumberForm(low=low, low_excluded=excluded), NumberForm(high=low, high_excluded=not excluded)
    )


def maximum(subschema: Subschema, kind: JsonType) -> Formula:
    """``maximum``; in draft 4, ``exclusiveMaximum`` is a switch beside it."""
    del kind
    high, excluded = exact(subschema.get("maximum")), subschema.get("exclusiveMaximum") is True
    return _numbers(
        NumberForm(high=high, high_excluded=excluded), NumberForm(low=high, low_excluded=not excluded)
    )


def exclusive_minimum(subschema: Subschema, kind: JsonType) -> Formula:
    del kind
    low = subschema.get("exclusiveMinimum")
    if isinstance(low, bool):
        return TRUE
    return _numbers(NumberForm(low=exact(low), low_excluded=True), NumberForm(high=exact(low)))


def exclusive_maximum(subschema: Subschema, kind: JsonType) -> Formula:
    del kind
    high = subschema.get("exclusiveMaximum")
    if isinstance(high, bool):
        return TRUE
    return _numbers(NumberForm(high=exact(high), high_excluded=True), NumberForm(low=exact(high)))


def multiple_of(subschema: Subschema, kind: JsonType) -> Formula:
    del kind
    step = exact(subschema.get("multipleOf"))
    return held(NumberConstraints(NumberForm(multiples=(step,))), NumberConstraints(not_multiples=(step,)))
