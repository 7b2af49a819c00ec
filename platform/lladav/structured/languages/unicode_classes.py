"""Named sets of characters, and what ``\\d``, ``\\w``, ``\\s``, ``.``, ``\\b`` and ``$`` mean to whom.

The specification of JSON Schema asks for ECMA-262, but validators search with the regular expressions of
their language. A string must satisfy a pattern in all of these dialects.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import regex

from lladav.structured.errors import SchemaError
from lladav.structured.languages.code_points import (
    ANY,
    SURROGATES,
    CodePoints,
    characters,
    code_points,
    complement,
    union,
)


@dataclass(frozen=True)
class Dialect:
    """What the short names of a regular expression mean."""

    digits: CodePoints
    words: CodePoints
    spaces: CodePoints
    dots: CodePoints
    """Characters that ``.`` matches."""
    boundary_words: CodePoints
    """Characters of a word, where ``\\b`` looks for its ends."""
    ends_before_newline: bool
    """Whether ``$`` also matches in front of a line feed at the end."""


ASCII_DIGITS = code_points([(ord("0"), ord("9"))])
ASCII_WORDS = code_points([(ord(first), ord(last)) for first, last in ("09", "AZ", "az", "__")])
ECMA_SPACES = characters(
    "\t\n\v\f\r \xa0\u1680\u2028\u2029\u202f\u205f\u3000\ufeff" + "".join(map(chr, range(0x2000, 0x200B)))
)
RUST_WORDS = "Alphabetic", "M", "Nd", "Pc", "Join_Control"
"""Unicode properties of the characters that Rust takes for parts of words."""
NOT_LINE_FEED = complement(characters("\n"))


NOT_LINE_END = complement(characters("\n\r\u2028\u2029"))
ECMA = Dialect(ASCII_DIGITS, ASCII_WORDS, ECMA_SPACES, NOT_LINE_END, ASCII_WORDS, ends_before_newline=False)


@lru_cache(maxsize=1)
def other_dialects() -> tuple[Dialect, ...]:
    """The dialects of ``jsonschema`` (Python) and of ``jsonschema_rs`` (Rust)."""
    digits, words, spaces = (_matched(re.finditer(rf"\{name}+", _text_of_all())) for name in "dws")
    rust_words = union(property_class(name) for name in RUST_WORDS)
    return (
        Dialect(digits, words, spaces, NOT_LINE_FEED, words, ends_before_newline=True),
        Dialect(ASCII_DIGITS, ASCII_WORDS, ECMA_SPACES, NOT_LINE_FEED, rust_words, ends_before_newline=False),
    )


@lru_cache(maxsize=256)
def property_class(name: str) -> CodePoints:
    """The characters of a Unicode property, as in ``\\p{name}``."""
    try:
        pattern = regex.compile(rf"\p{{{name}}}+")
    except regex.error as error:
        raise SchemaError("", f"has a pattern with an unknown property: \\p{{{name}}}") from error
    return _matched(pattern.finditer(_text_of_all()))


@lru_cache(maxsize=1)
def _text_of_all() -> str:
    """All characters in order."""
    points = np.concatenate([np.arange(first, last + 1, dtype="<u4") for first, last in ANY])
    return points.tobytes().decode("utf-32-le")


def _matched(found: Iterable[re.Match[str] | regex.Match[str]]) -> CodePoints:
    """The characters of all matches in ``_text_of_all``."""
    gap = SURROGATES[1] - SURROGATES[0] + 1
    ends = ((match.start(), match.end() - 1) for match in found)
    return code_points(
        (first + gap * (first >= SURROGATES[0]), last + gap * (last >= SURROGATES[0])) for first, last in ends
    )
