"""Where the records of a JSON list or of JSON lines begin and end, as byte ranges.

A list may be far larger than memory: it is never parsed as a whole. Only its quotes and brackets are looked
at, a window at a time, so that a record that is no valid JSON costs itself and not its neighbours.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lladav.errors import UserError

Span = tuple[int, int]
"""First byte and the one after the last."""

WINDOW = 1 << 24
"""Bytes looked at together; grows where a single record is larger."""

_OPENING = re.compile(rb"(?:\xef\xbb\xbf)?\s*\[")
_BLANK = re.compile(rb"\s*")
_BETWEEN = b" \t\r\n,"
_STRAY = re.compile(rb'"(?:[^"\\]|\\.)*"|[^\s,"]+|"', re.DOTALL)
_QUOTE, _BACKSLASH = b'"\\'
_STEPS = np.zeros(256, np.int8)
_STEPS[list(b"[{")], _STEPS[list(b"]}")] = 1, -1


def line_spans(path: Path) -> Iterator[Span]:
    """The lines of a file that are not blank."""
    with _mapped(path) as content:
        start, size = 0, len(content)
        while start < size:
            found = content.find(b"\n", start)
            end = size if found < 0 else found
            if content[start:end].strip():
                yield start, end
            start = end + 1


def list_spans(path: Path) -> Iterator[Span]:
    """The elements of the list that a file holds.

    Raises ``UserError`` where the file is not a list, ends inside one, or has more text after it.
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
            start, window = (start + spans[-1][1], WINDOW) if spans else (start, 2 * window)


def _check_end(content: mmap.mmap, closing: int, path: Path) -> None:
    """Records behind a bracket that closes the list too early would be lost without a word."""
    rest = _BLANK.match(content, closing + 1)
    if content[closing : closing + 1] != b"]" or (rest and rest.end() < len(content)):
        raise UserError(
            f"{path}: the list ends at byte {closing} and the file goes on; correct a stray bracket there, "
            "or set format to jsonl for one record a line"
        )


def _elements(text: bytes) -> tuple[list[Span], int | None]:
    """Elements that end inside the text, which begins between two, and where their list ends if it does."""
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
    """The elements and, as elements too, whatever stands between them and is no comma.

    It will be refused as a record; skipping it would hide it.
    """
    for number, stop in enumerate(stops):
        start = ends[number - 1] if number else 0
        between = text[start:stop]
        if between.strip(_BETWEEN):
            yield from ((start + found.start(), start + found.end()) for found in _STRAY.finditer(between))
        if number < len(ends):
            yield begins[number], ends[number]


def _brackets(text: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Places of the brackets outside strings, and the depth after each."""
    codes = np.frombuffer(text, np.uint8)
    quotes = np.flatnonzero(codes == _QUOTE)
    escaped = quotes[(quotes > 0) & (codes[quotes - 1] == _BACKSLASH)]
    quotes = np.setdiff1d(quotes, [q for q in escaped.tolist() if _is_escaped(text, q)], assume_unique=True)
    steps = _STEPS[codes]
    places = np.flatnonzero(steps)
    places = places[np.searchsorted(quotes, places) % 2 == 0]
    return places, np.cumsum(steps[places], dtype=np.int64)


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
            raise UserError(f"{path}: the file is empty; download it again or leave it out") from None
