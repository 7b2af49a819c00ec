"""Byte ranges of the records in a JSON list or in JSON lines.

A list may be far larger than memory and is never parsed as a whole. The scan looks only at quotes and
brackets, one window of bytes at a time: a record that is invalid JSON does not affect its neighbours.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lladav.errors import UserError

Span = tuple[int, int]
"""The first byte of a record and the byte after its last."""

WINDOW = 1 << 22
"""Bytes that are scanned at a time; doubled while a single record is larger."""

_OPENING = re.compile(rb"(?:\xef\xbb\xbf)?\s*\[")
_BLANK = re.compile(rb"\s*")
_BETWEEN = b" \t\r\n,"
_STRAY = re.compile(rb'"(?:[^"\\]|\\.)*"|[^\s,"]+|"', re.DOTALL)
_QUOTE, _BACKSLASH = b'"\\'
_STEPS = np.zeros(256, np.int8)
_STEPS[list(b"[{")], _STEPS[list(b"]}")] = 1, -1


def line_spans(path: Path) -> Iterator[Span]:
    """The lines of a file, blank ones skipped; raises ``UserError`` for an empty file."""
    with path.open("rb") as file:
        start = 0
        for line in file:
            text = line.removesuffix(b"\n")
            if text.strip():
                yield start, start + len(text)
            start += len(line)
    if not start:
        raise _empty(path)


def list_spans(path: Path) -> Iterator[Span]:
    """The elements of the JSON list in a file.

    Raises ``UserError`` if the file is not a list, ends within the list, or has more text after it.
    """
    with _mapped(path) as content:
        opening = _OPENING.match(content)
        if opening is None:
            raise UserError(f"{path}: not a JSON list; for one record a line set format to jsonl")
        start, window, closing = opening.end(), WINDOW, None
        while closing is None:
            spans, closing = _elements(content[start : start + window])
            yield from ((start + begin, start + end) for begin, end in spans)
            if closing is not None:
                _check_end(content, start + closing, path)
            elif start + window >= len(content):
                raise UserError(
                    f"{path}: the list breaks off after byte {start + (spans[-1][1] if spans else 0)}; "
                    "the file is cut short or has a stray quote or bracket there"
                )
            if spans:
                end = start + spans[-1][1]
                _forget(content, start, end)
                start, window = end, WINDOW
            else:
                window *= 2


def _check_end(content: mmap.mmap, closing: int, path: Path) -> None:
    """Raise ``UserError`` if text follows the list: a stray bracket would silently hide records."""
    rest = _BLANK.match(content, closing + 1)
    if content[closing : closing + 1] != b"]" or (rest and rest.end() < len(content)):
        raise UserError(
            f"{path}: the list ends at byte {closing} and the file goes on; correct a stray bracket there, "
            "or set format to jsonl for one record a line"
        )


def _elements(text: bytes) -> tuple[list[Span], int | None]:
    """The elements that end within the text, and the position of the bracket that closes the list, if any.

    The text starts between two elements, or before the first.
    """
    marks, depth = _brackets(text)
    ends_at = np.flatnonzero(depth < 0)[:1]
    closed = len(ends_at) > 0
    if closed:
        marks, depth = marks[: ends_at[0] + 1], depth[: ends_at[0] + 1]
    previous = np.concatenate([[0], depth[:-1]])
    begins = marks[(previous == 0) & (depth == 1)].tolist()
    ends = (marks[(previous == 1) & (depth == 0)] + 1).tolist()
    stops = begins[: len(ends)] + (marks[-1:].tolist() if closed else [])
    return list(_with_strays(text, begins, ends, stops)), int(marks[-1]) if closed else None


def _with_strays(text: bytes, begins: list[int], ends: list[int], stops: list[int]) -> Iterator[Span]:
    """The elements, and any other text between them that is not a comma as elements of its own.

    Such text then counts as a bad record instead of being skipped silently.
    """
    for number, stop in enumerate(stops):
        start = ends[number - 1] if number else 0
        between = text[start:stop]
        if between.strip(_BETWEEN):
            yield from ((start + found.start(), start + found.end()) for found in _STRAY.finditer(between))
        if number < len(ends):
            yield begins[number], ends[number]


def _brackets(text: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the brackets outside strings, and the nesting depth after each."""
    codes = np.frombuffer(text, np.uint8)
    quotes = np.flatnonzero(codes == _QUOTE)
    escaped = quotes[(quotes > 0) & (codes[quotes - 1] == _BACKSLASH)]
    quotes = np.setdiff1d(quotes, [q for q in escaped.tolist() if _is_escaped(text, q)], assume_unique=True)
    steps = _STEPS[codes]
    positions = np.flatnonzero(steps)
    positions = positions[np.searchsorted(quotes, positions) % 2 == 0]
    return positions, np.cumsum(steps[positions], dtype=np.int64)


def _is_escaped(text: bytes, quote: int) -> bool:
    run = quote
    while run and text[run - 1] == _BACKSLASH:
        run -= 1
    return (quote - run) % 2 == 1


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        try:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise _empty(path) from None


def _forget(content: mmap.mmap, start: int, end: int) -> None:
    """Let go of the pages that hold these bytes: until then they count as memory of the process."""
    first = start - start % mmap.PAGESIZE
    content.madvise(mmap.MADV_DONTNEED, first, end - first)


def _empty(path: Path) -> UserError:
    return UserError(f"{path}: the file is empty; download it again or leave it out")
