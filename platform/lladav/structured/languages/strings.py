"""Languages of strings: lengths, patterns, formats and excluded strings."""

from __future__ import annotations

from lladav.structured.errors import SchemaError
from lladav.structured.forms import StringForm
from lladav.structured.languages.char_dfa import CharDfa, any_string, with_length
from lladav.structured.languages.conditions import Condition, NoneOf, dfa_of


def string_dfa(form: StringForm) -> CharDfa:
    """The strings of a form. Raises ``SchemaError`` if there is none or the automaton has too many states."""
    return with_length(_content(form), form.min_length, form.max_length)


def _content(form: StringForm) -> CharDfa:
    """The strings of a form, of any length."""
    if form.patterns or form.not_patterns or form.formats:
        raise SchemaError("", "has a pattern or format")
    conditions = list[Condition]()
    if form.excluded:
        conditions.append(NoneOf(form.excluded))
    return dfa_of(conditions) if conditions else any_string()
