"""Reads characters, escapes and classes of regular expressions as sets of code points."""

from __future__ import annotations

import re

from lladav.structured.errors import SchemaError
from lladav.structured.languages.code_points import CodePoints, characters, code_points, complement, union
from lladav.structured.languages.unicode_classes import Dialect, property_class

CONTROL_ESCAPES = {"t": "\t", "n": "\n", "v": "\v", "f": "\f", "r": "\r"}
PROPERTY = re.compile(r"[pP](?:\{(\^?[A-Za-z_][\w=]*)\}|([A-Z]))")
HEXADECIMAL = re.compile(r"x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|u\{([0-9A-Fa-f]{1,6})\}")
LOW_SURROGATE = re.compile(r"\\u([Dd][C-Fc-f][0-9A-Fa-f]{2})")


class RegexSource:
    """An expression and how far it is read."""

    def __init__(self, text: str) -> None:
        self.text, self.index = text, 0

    def peek(self) -> str:
        """The next character; empty at the end."""
        return self.text[self.index : self.index + 1]

    def take(self, text: str) -> bool:
        """Read a text if it follows."""
        follows = self.text.startswith(text, self.index)
        self.index += len(text) * follows
        return follows

    def next(self) -> str:
        """Read a character."""
        if not (character := self.peek()):
            raise self.error("ends too early")
        self.index += 1
        return character

    def match(self, expression: re.Pattern[str]) -> re.Match[str] | None:
        """Read what an expression matches here."""
        if found := expression.match(self.text, self.index):
            self.index = found.end()
        return found

    def error(self, reason: str) -> SchemaError:
        """An error with the expression and the place."""
        shown = self.text if len(self.text) <= 80 else f"{self.text[:77]}..."
        return SchemaError(
            "", f"has a pattern that cannot be used: {shown} {reason} (character {self.index})"
        )


class CharacterReader:
    """Reads one character, escape or class of a source."""

    def __init__(self, source: RegexSource, dialect: Dialect) -> None:
        self._source = source
        self._classes = {"d": dialect.digits, "w": dialect.words, "s": dialect.spaces}

    def read(self) -> CodePoints:
        """The characters that the next part of the expression matches."""
        if self._source.take("["):
            return self._bracketed()
        return self._escape() if self._source.take("\\") else characters(self._source.next())

    def _bracketed(self) -> CodePoints:
        """A class, after its opening bracket."""
        negated = self._source.take("^")
        if self._source.peek() == "]":
            raise self._source.error("has a class that is empty or begins with ]; write \\]")
        parts = list[CodePoints]()
        while not self._source.take("]"):
            parts.append(self._range())
        return complement(union(parts)) if negated else union(parts)

    def _range(self) -> CodePoints:
        """A range or a single part of a class."""
        first = self._member()
        if self._source.peek() != "-" or self._source.text[self._source.index + 1 :][:1] in ("]", ""):
            return first
        self._source.next()
        last = self._member()
        ends = [each[0][0] for each in (first, last) if len(each) == 1 and each[0][0] == each[0][1]]
        if len(ends) < 2 or ends[0] > ends[1]:
            raise self._source.error("has a range without two characters in order")
        return code_points([(ends[0], ends[1])])

    def _member(self) -> CodePoints:
        if not self._source.take("\\"):
            return characters(self._source.next())
        return characters("\b") if self._source.take("b") else self._escape()

    def _escape(self) -> CodePoints:
        """What follows a backslash."""
        if found := self._source.match(HEXADECIMAL):
            return self._code_point(int(found[1] or found[2] or found[3], 16))
        if found := self._source.match(PROPERTY):
            points = property_class(found[1] or found[2])
            return complement(points) if found[0][0] == "P" else points
        letter = self._source.next()
        if (points := self._classes.get(letter.lower())) is not None:
            return points if letter.islower() else complement(points)
        if letter in CONTROL_ESCAPES:
            return characters(CONTROL_ESCAPES[letter])
        if letter == "c" and self._source.peek().isascii() and self._source.peek().isalpha():
            return characters(chr(ord(self._source.next()) % 32))
        if letter == "0" and not self._source.peek().isdigit():
            return characters("\0")
        if letter.isalnum():
            raise self._source.error(f"has the escape \\{letter}, which is not supported")
        return characters(letter)

    def _code_point(self, point: int) -> CodePoints:
        """A code point, or the one of a surrogate pair."""
        if 0xD800 <= point < 0xDC00 and (low := self._source.match(LOW_SURROGATE)):
            point = 0x10000 + ((point - 0xD800) << 10) + int(low[1], 16) - 0xDC00
        if point > 0x10FFFF:
            raise self._source.error("has a code point beyond Unicode")
        return code_points([(point, point)])
