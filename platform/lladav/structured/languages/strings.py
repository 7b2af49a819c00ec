"""Languages of strings: lengths, patterns, formats and excluded strings."""

from __future__ import annotations

from functools import lru_cache

from lladav.structured.forms import StringForm
from lladav.structured.languages.char_dfa import CharDfa, any_string, with_length
from lladav.structured.languages.conditions import NoneOf, StringCondition, Work, dfa_of
from lladav.structured.languages.formats import format_condition
from lladav.structured.languages.patterns import (
    not_pattern_conditions,
    pattern_conditions,
    whole_conditions,
)


def string_dfa(form: StringForm) -> CharDfa:
    """The strings of a form.

    Raises ``SchemaError`` if there is none, or if a pattern or format is not supported.
    """
    content = _content(form.patterns, form.not_patterns, form.formats, form.excluded)
    return with_length(content, form.min_length, form.max_length)


def matching_dfa(pattern: str) -> CharDfa:
    """The strings that a regular expression matches as a whole."""
    work = Work()
    return dfa_of(whole_conditions(pattern, work), work)


@lru_cache(maxsize=256)
def _content(
    patterns: tuple[str, ...],
    not_patterns: tuple[str, ...],
    formats: tuple[str, ...],
    excluded: frozenset[str],
) -> CharDfa:
    """The strings of a form, of any length."""
    work = Work()
    conditions = list[StringCondition]()
    for pattern in patterns:
        conditions += pattern_conditions(pattern, work)
    for pattern in not_patterns:
        conditions += not_pattern_conditions(pattern, work)
    for name in formats:
        conditions.append(format_condition(name, work))
    if excluded:
        conditions.append(NoneOf(excluded))
    return dfa_of(conditions, work) if conditions else any_string()
