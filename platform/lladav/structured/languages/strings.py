"""Languages of strings: lengths, patterns, formats and excluded strings."""

from __future__ import annotations

from functools import lru_cache

from lladav.structured.forms import StringForm
from lladav.structured.languages.byte_encoding import byte_dfa
from lladav.structured.languages.char_dfa import CharDfa, any_string, with_length
from lladav.structured.languages.conditions import NoneOf, StringCondition, Work, dfa_of
from lladav.structured.languages.formats import format_condition
from lladav.structured.languages.patterns import (
    not_pattern_conditions,
    pattern_conditions,
    whole_conditions,
)

MAX_COUNTED_BYTE_STATES = 16_384
"""States over bytes of an automaton that counts characters."""


def string_language(form: StringForm) -> tuple[CharDfa, int | None]:
    """The strings of a form, and the largest length if the automaton does not check it.

    It does not if it would have too many states. Raises ``SchemaError`` if there is no string, or if a
    pattern or format is not supported.
    """
    content = _content(form.patterns, form.not_patterns, form.formats, form.excluded)
    longest = content.max_length
    if form.max_length is None or (longest is not None and longest <= form.max_length):
        return with_length(content, form.min_length, None), None
    num_states = len(byte_dfa(content, escaped=True).accepting_S)
    if form.max_length * num_states <= MAX_COUNTED_BYTE_STATES:
        return with_length(content, form.min_length, form.max_length), None
    return with_length(content, form.min_length, None), form.max_length


def matching_dfa(pattern: str) -> CharDfa:
    """The strings that a regular expression matches as a whole."""
    work = Work()
    return dfa_of(whole_conditions(pattern, work), work)


@lru_cache(maxsize=128)
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
