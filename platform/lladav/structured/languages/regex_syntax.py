"""The syntax tree of a regular expression, and its parser.

Expressions are those of ECMA-262, as JSON Schema uses them. What validators read in different ways is
refused, and so are backreferences and lookbehind, which no automaton follows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from lladav.structured.errors import SchemaError
from lladav.structured.languages.class_syntax import CharacterReader, RegexSource
from lladav.structured.languages.code_points import CodePoints, characters
from lladav.structured.languages.unicode_classes import Dialect

MAX_LENGTH = 20_000
"""Characters of an expression."""
MAX_DEPTH = 100
"""Groups inside each other."""
QUANTIFIER = re.compile(r"[*+?]|\{(\d{1,6})(,(\d{1,6})?)?\}")
AMBIGUOUS_BRACE = re.compile(r"\{(\d+(,\d*)?|,\d+)\}")
"""A quantifier, or for ECMA-262 some characters; other braces stand for themselves."""
PLACE = re.compile(r"[\^$]|\\[bB]")
"""An assertion; its text is the value of a ``Place``."""
GROUP = re.compile(r"\?(?:(?P<plain>:)|(?P<look>[=!])|P?<[A-Za-z_]\w*>)")


class Place(Enum):
    """What an assertion says about its place in the string."""

    START = "^"
    END = "$"
    BOUNDARY = r"\b"
    NO_BOUNDARY = r"\B"


@dataclass(frozen=True)
class CharNode:
    """One character of a set."""

    points: CodePoints


@dataclass(frozen=True)
class Concatenation:
    parts: tuple[RegexNode, ...]


@dataclass(frozen=True)
class Alternation:
    options: tuple[RegexNode, ...]


@dataclass(frozen=True)
class Repetition:
    node: RegexNode
    least: int
    most: int | None


@dataclass(frozen=True)
class PlaceAssertion:
    place: Place


@dataclass(frozen=True)
class Lookahead:
    """What follows begins with a string of the node, or does not."""

    node: RegexNode
    negative: bool


RegexNode: TypeAlias = CharNode | Concatenation | Alternation | Repetition | PlaceAssertion | Lookahead


def parse_regex(pattern: str, dialect: Dialect) -> RegexNode:
    """The syntax tree of an expression; raises ``SchemaError`` if it is invalid or not supported."""
    if len(pattern) > MAX_LENGTH:
        raise SchemaError("", f"has a pattern of more than {MAX_LENGTH:,} characters; use a shorter one")
    return _Parser(pattern, dialect).parse()


class _Parser:
    """Recursive descent; a method reads its part from the source."""

    def __init__(self, pattern: str, dialect: Dialect) -> None:
        self._source, self._dialect = RegexSource(pattern), dialect
        self._characters = CharacterReader(self._source, dialect)
        self._depth = 0

    def parse(self) -> RegexNode:
        node = self._alternation()
        if self._source.peek():
            raise self._source.error("has a parenthesis that is not open")
        return node

    def _alternation(self) -> RegexNode:
        options = [self._concatenation()]
        while self._source.take("|"):
            options.append(self._concatenation())
        return options[0] if len(options) == 1 else Alternation(tuple(options))

    def _concatenation(self) -> RegexNode:
        parts = list[RegexNode]()
        while self._source.peek() not in ("", "|", ")"):
            parts.append(self._quantified())
        return parts[0] if len(parts) == 1 else Concatenation(tuple(parts))

    def _quantified(self) -> RegexNode:
        asserts = PLACE.match(self._source.text, self._source.index)
        node = self._atom()
        if (found := self._source.match(QUANTIFIER)) is None:
            return node
        self._source.take("?")  # laziness does not change which strings match
        if self._source.peek() in ("*", "+", "?") or asserts:
            raise self._source.error("repeats a quantifier or an assertion")
        least, most = _limits(found)
        if most is not None and least > most:
            raise self._source.error("has limits in the wrong order")
        return Repetition(node, least, most)

    def _atom(self) -> RegexNode:
        source = self._source
        if source.take("("):
            return self._group()
        if found := source.match(PLACE):
            return self._end() if found[0] == Place.END.value else PlaceAssertion(Place(found[0]))
        if source.take("."):
            return CharNode(self._dialect.dots)
        if source.peek() in ("*", "+", "?") or source.match(AMBIGUOUS_BRACE):
            raise source.error("has a quantifier that repeats nothing")
        return CharNode(self._characters.read())

    def _end(self) -> RegexNode:
        end = PlaceAssertion(Place.END)
        if not self._dialect.ends_before_newline:
            return end
        return Alternation((end, Lookahead(Concatenation((CharNode(characters("\n")), end)), negative=False)))

    def _group(self) -> RegexNode:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._source.error(f"has more than {MAX_DEPTH} groups inside each other")
        found = self._source.match(GROUP)
        if found is None and self._source.peek() == "?":
            raise self._source.error("has a group that is not supported (lookbehind or flags)")
        node = self._alternation()
        if not self._source.take(")"):
            raise self._source.error("has a parenthesis that is not closed")
        self._depth -= 1
        look = found["look"] if found else None
        return Lookahead(node, negative=look == "!") if look else node


def _limits(quantifier: re.Match[str]) -> tuple[int, int | None]:
    """How often a quantifier repeats at least and at most."""
    if quantifier[1] is None:
        return {"*": (0, None), "+": (1, None), "?": (0, 1)}[quantifier[0]]
    least = int(quantifier[1])
    if quantifier[2] is None:
        return least, least
    return least, None if quantifier[3] is None else int(quantifier[3])
