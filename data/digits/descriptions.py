"""Long descriptions of an image: every true sentence of a fixed set, in random order.

They are the longest texts of the built-in data. No sentence occurs twice, so a model that repeats itself is
wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from data.digits.questions import ORDINALS, Pair, joined

PROMPT = "Please describe the image in detail."
"""The prompt of the released demo."""

END = ". "
"""Between two sentences."""


def describe(digits: Sequence[int], rng: np.random.Generator) -> Pair:
    """The prompt, and all true sentences in random order."""
    return PROMPT, END.join(rng.permutation(true_sentences(digits)).tolist()) + "."


def true_sentences(digits: Sequence[int]) -> list[str]:
    """What can be said about an image with these digits; 5 sentences for one digit, 11 for three."""
    return [
        f"The number of digits is {len(digits)}",
        f"From left to right the digits are {joined(digits)}",
        f"The largest digit is {max(digits)}",
        f"The smallest digit is {min(digits)}",
        *_of_single_digits(digits),
        *_of_neighbours(digits),
    ]


def true_share(text: str, digits: Sequence[int]) -> float:
    """Share of the sentences of a text that are true; 0 for an empty text."""
    sentences, true = _sentences(text), set(true_sentences(digits))
    return sum(sentence in true for sentence in sentences) / max(1, len(sentences))


def covered_share(text: str, digits: Sequence[int]) -> float:
    """Share of the true sentences that a text has."""
    sentences, true = set(_sentences(text)), true_sentences(digits)
    return sum(sentence in sentences for sentence in true) / len(true)


def _sentences(text: str) -> list[str]:
    return [sentence for sentence in text.strip().removesuffix(".").split(END) if sentence]


def _of_single_digits(digits: Sequence[int]) -> Iterator[str]:
    for ordinal, digit in zip(ORDINALS, digits, strict=False):
        yield f"The {ordinal} digit is {digit} and {'odd' if digit % 2 else 'even'}"


def _of_neighbours(digits: Sequence[int]) -> Iterator[str]:
    """Two comparisons and a sum for each pair of adjacent digits."""
    pairs = zip(ORDINALS, ORDINALS[1:], digits, digits[1:], strict=False)
    for left, right, first, second in pairs:
        relation = "equal to" if first == second else "larger than" if first > second else "smaller than"
        yield f"The {left} digit is {relation} the {right} digit"
        yield f"The {left} digit and the {right} digit add up to {first + second}"
