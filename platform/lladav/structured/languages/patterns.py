"""Conditions for regular expressions, which hold for every validator."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial

from lladav.structured.budget import Budget
from lladav.structured.languages.code_points import CodePoints
from lladav.structured.languages.conditions import StringCondition
from lladav.structured.languages.regex_condition import NoMatch, RegexCondition, anywhere, whole
from lladav.structured.languages.regex_syntax import RegexNode, parse_regex
from lladav.structured.languages.unicode_classes import ECMA, other_dialects

COMPLEMENT = re.compile(r"\\[DWSbB]|\[\^[^\]]*\\[dws]|\(\?!")
"""Parts of an expression that match more where a dialect's ``\\d``, ``\\w`` or ``\\s`` matches less."""
CHARACTER_STEPS = 3
"""Steps to parse a character of an expression."""
PROPERTY_STEPS = 3_000
"""Steps to list the characters of a Unicode property."""
PROPERTY_NAME = re.compile(r"\\[pP](\{[^}]*\}|.)")


def pattern_conditions(pattern: str, search: Budget, budget: Budget) -> list[StringCondition]:
    """Strings in which a pattern occurs."""
    readings = _readings(pattern, budget, grows=not COMPLEMENT.search(pattern))
    return [RegexCondition(anywhere(node), words, search) for node, words in readings]


def not_pattern_conditions(pattern: str, search: Budget, budget: Budget) -> list[StringCondition]:
    """Strings in which a pattern occurs nowhere."""
    readings = _readings(pattern, budget, grows=False)
    return [NoMatch(RegexCondition(anywhere(node), words, search)) for node, words in readings]


def whole_conditions(pattern: str, search: Budget, budget: Budget) -> list[StringCondition]:
    """Strings that a pattern matches as a whole."""
    readings = _readings(pattern, budget, grows=not COMPLEMENT.search(pattern))
    return [RegexCondition(whole(node), words, search) for node, words in readings]


def _readings(pattern: str, budget: Budget, grows: bool) -> list[tuple[RegexNode, CodePoints]]:
    """The syntax trees of a pattern in all dialects, and the words of ``\\b``, each once.

    ``grows`` says that the pattern matches at least as much where its classes do. Then ECMA-262, which has
    the smallest classes, decides about all but white space.
    """
    if not grows:
        others = other_dialects()
    elif r"\s" in pattern:
        others = [replace(ECMA, spaces=each.spaces) for each in other_dialects()]
    else:
        others = ()
    has_bounds = "\\b" in pattern or "\\B" in pattern
    steps = CHARACTER_STEPS * len(pattern) + PROPERTY_STEPS * len({*PROPERTY_NAME.findall(pattern)})
    readings = dict[tuple[RegexNode, CodePoints], None]()
    for dialect in (ECMA, *others):
        node = budget.once((pattern, dialect), steps, partial(parse_regex, pattern, dialect))
        readings[node, dialect.boundary_words if has_bounds else ()] = None
    return [*readings]
