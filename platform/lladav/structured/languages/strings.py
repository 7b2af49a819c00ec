"""Languages of strings: lengths, patterns, formats and excluded strings."""

from __future__ import annotations

from lladav.structured.budget import Budget
from lladav.structured.forms import StringForm
from lladav.structured.languages.byte_encoding import byte_dfa
from lladav.structured.languages.char_dfa import CharDfa, any_string, with_length
from lladav.structured.languages.conditions import NoneOf, StringCondition, dfa_of, search_budget
from lladav.structured.languages.formats import format_condition
from lladav.structured.languages.patterns import (
    not_pattern_conditions,
    pattern_conditions,
    whole_conditions,
)

MAX_COUNTED_BYTE_STATES = 16_384
"""States over bytes of an automaton that counts characters."""


def string_language(form: StringForm, budget: Budget) -> tuple[CharDfa, int | None]:
    """The strings of a form, and the largest length if the automaton does not check it.

    It does not if it would have too many states. Raises ``SchemaError`` if there is no string, or if a
    pattern or format is not supported.
    """
    content = _content(form, budget)
    longest = content.max_length
    if form.max_length is None or (longest is not None and longest <= form.max_length):
        return with_length(content, form.min_length, None, budget), None
    num_states = len(byte_dfa(content, budget, escaped=True).accepting_S)
    if form.max_length * num_states <= MAX_COUNTED_BYTE_STATES:
        return with_length(content, form.min_length, form.max_length, budget), None
    return with_length(content, form.min_length, None, budget), form.max_length


def matching_dfa(pattern: str, budget: Budget) -> CharDfa:
    """The strings that a regular expression matches as a whole."""
    search = search_budget(budget)
    return dfa_of(whole_conditions(pattern, search, budget), search, budget)


def _content(form: StringForm, budget: Budget) -> CharDfa:
    """The strings of a form, of any length."""
    search = search_budget(budget)
    conditions = list[StringCondition]()
    for pattern in form.patterns:
        conditions += pattern_conditions(pattern, search, budget)
    for pattern in form.not_patterns:
        conditions += not_pattern_conditions(pattern, search, budget)
    for name in form.formats:
        conditions.append(format_condition(name, search))
    if form.excluded:
        conditions.append(NoneOf(form.excluded))
    return dfa_of(conditions, search, budget) if conditions else any_string(budget)
