"""Questions about digits and their correct answers: pure functions of the digits and a random generator.

Answers are as short as possible, except for step-by-step arithmetic, which writes its steps and ends in
"Answer: N".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from enum import StrEnum

import numpy as np

Pair = tuple[str, str]
Ask = Callable[[Sequence[int], np.random.Generator], Pair]

ORDINALS = ("first", "second", "third")
SUFFIXES = (" /no_think", " /think")


class Split(StrEnum):
    """The two halves of the held-out questions: choices use ``validation``, reported results use ``test``."""

    validation = "validation"
    test = "test"


CAPTIONS = (
    "The digits {}.",
    "A picture of the digits {}.",
    "An image that shows {}.",
    "Handwritten digits: {}.",
)
READ = (
    "Read the digits from left to right.",
    "What digits does the image show?",
    "Which digits are in the picture?",
)
COUNT = (
    "How many digits are there?",
    "How many digits does the image show?",
    "Count the digits in the picture.",
)
MAX_PARTIAL_SUM = 18
"""The largest sum of two digits, to which a third may be added."""

DIFFERENCE_SHARE = 0.25
"""Fraction of the calculations stated in a question that are differences."""

WATCH = ("Which digits does the video show, in order?", "Read the digits in the order they appear.")

SYNONYMS = (READ, COUNT, WATCH)
"""Wordings of the same question; the last one of each group is asked in the test half only."""

REWORDED = {
    Split.validation: (
        "Tell me all the digits in this image, left to right.",
        "Say how many digits you can see.",
        "Name the largest of the digits.",
    ),
    Split.test: (
        "Please write down each digit that you see, in order.",
        "Give the number of digits shown here.",
        "State the biggest digit of all.",
    ),
}
"""Wordings that no training set has, of reading, counting and comparing."""


def choose(options: Sequence, rng: np.random.Generator):
    """A uniformly random option."""
    return options[int(rng.integers(len(options)))]


def joined(digits: Sequence[int]) -> str:
    """The digits as text: 3, 8 and 1 give "381"."""
    return "".join(map(str, digits))


def caption(digits: Sequence[int], rng: np.random.Generator) -> str:
    return choose(CAPTIONS, rng).format(joined(digits))


def read(digits: Sequence[int], rng: np.random.Generator) -> Pair:
    return choose(READ, rng), joined(digits)


def count(digits: Sequence[int], rng: np.random.Generator) -> Pair:
    return choose(COUNT, rng), str(len(digits))


def locate(digits: Sequence[int], rng: np.random.Generator) -> Pair:
    name, digit = _random_digit(digits, rng)
    return f"What is the {name} digit?", str(digit)


def parity(digits: Sequence[int], rng: np.random.Generator) -> Pair:
    name, digit = _random_digit(digits, rng)
    return f"Is the {name} digit even or odd?", _parity(digit)


def compare(digits: Sequence[int], rng: np.random.Generator) -> Pair:
    """The smallest or the largest digit, or the larger one of the first and the last."""
    kind = int(rng.integers(3))
    if kind == 2:
        return "Which is larger, the first digit or the last digit?", _larger_end(digits)
    return (
        ("What is the largest digit?", str(max(digits)))
        if kind
        else ("What is the smallest digit?", str(min(digits)))
    )


def arithmetic(digits: Sequence[int], rng: np.random.Generator) -> Pair:
    """A sum or difference of digits in the image, with every step written out."""
    ask = choose((_total, _ends, _spread), rng)
    question, steps, result = ask(digits)
    return f"{question} Think step by step.", _steps(steps, result)


def text_only(rng: np.random.Generator) -> Pair:
    """A question without an image."""
    a, b = rng.integers(0, 10, 2).tolist()
    partial_sum = int(rng.integers(0, choose((10, MAX_PARTIAL_SUM + 1), rng)))
    options = (
        (f"What is {partial_sum} + {b}?", str(partial_sum + b)),
        (f"What is {max(a, b)} - {min(a, b)}?", str(abs(a - b))),
        (f"Which is larger, {a} or {b}?", str(max(a, b))),
        (f"Is {a} even or odd?", _parity(a)),
    )
    return choose(options, rng)


def sum_in_words(rng: np.random.Generator) -> Pair:
    """A sum or difference stated in the question itself, with every step written out."""
    digits = rng.integers(0, 10, int(rng.integers(2, 4))).tolist()
    if rng.random() < DIFFERENCE_SHARE:
        large, small = max(digits), min(digits)
        question, steps, result = f"{large} - {small}", [_step(large, "-", small)], large - small
    else:
        question, steps, result = " + ".join(map(str, digits)), *_running_sum(digits)
    return f"What is {question}? Think step by step.", _steps(steps, result)


def multi_image(images: Sequence[Sequence[int]], rng: np.random.Generator) -> Pair:
    """A question about all images or about one of them."""
    which = int(rng.integers(len(images)))
    options = (
        ("Read the digits of each image.", ", ".join(map(joined, images))),
        (f"How many digits are in the {ORDINALS[which]} image?", str(len(images[which]))),
        (f"Read the digits of the {ORDINALS[which]} image.", joined(images[which])),
        ("How many digits are there in all images?", str(sum(map(len, images)))),
    )
    return choose(options, rng)


def reworded(digits: Sequence[int], rng: np.random.Generator, split: Split) -> Pair:
    """A question in a wording that no training set has."""
    answers = joined(digits), str(len(digits)), str(max(digits))
    return choose(list(zip(REWORDED[split], answers, strict=True)), rng)


def in_words_of(split: Split, question: str) -> str:
    """A held-out question in a wording of this half: the same text unless there are several wordings."""
    for wordings in SYNONYMS:
        if question in wordings:
            own = wordings[-1:] if split is Split.test else wordings[:-1]
            return own[wordings.index(question) % len(own)]
    return question


def video(digits: Sequence[int], rng: np.random.Generator) -> Pair:
    """A question about a video that shows one digit after another."""
    return choose(((choose(WATCH, rng), joined(digits)), locate(digits, rng)), rng)


SINGLE: dict[str, Ask] = {
    "read": read,
    "count": count,
    "locate": locate,
    "compare": compare,
    "parity": parity,
}
"""Question types about one image with a short answer."""


def is_correct(kind: str, answer: str, expected: str) -> bool:
    """Whether an answer to a question of type ``kind`` is correct.

    The text must match exactly, except for ``arithmetic``: there the last number of both texts must match.
    """
    if kind == "arithmetic":
        return _last_number(answer) is not None and _last_number(answer) == _last_number(expected)
    return answer.strip() == expected.strip()


def _last_number(text: str) -> int | None:
    numbers = re.findall(r"\d+", text)
    return int(numbers[-1]) if numbers else None


def _random_digit(digits: Sequence[int], rng: np.random.Generator) -> tuple[str, int]:
    """An ordinal and the digit at that position."""
    return choose([*zip(ORDINALS, digits, strict=False), ("last", digits[-1])], rng)


def _parity(digit: int) -> str:
    return "odd" if digit % 2 else "even"


def _larger_end(digits: Sequence[int]) -> str:
    first, last = digits[0], digits[-1]
    return "equal" if first == last else "first" if first > last else "last"


def _steps(steps: Sequence[str], result: int) -> str:
    return f"{', '.join(steps)}. Answer: {result}"


def _step(left: int, sign: str, right: int) -> str:
    return f"{left}{sign}{right}={left + right if sign == '+' else left - right}"


def _running_sum(digits: Sequence[int]) -> tuple[list[str], int]:
    sums = np.cumsum(digits).tolist()
    return [_step(partial, "+", digit) for partial, digit in zip(sums[:-1], digits[1:], strict=True)], sums[
        -1
    ]


def _total(digits: Sequence[int]) -> tuple[str, list[str], int]:
    return "Add all digits.", *_running_sum(digits)


def _ends(digits: Sequence[int]) -> tuple[str, list[str], int]:
    first, last = digits[0], digits[-1]
    return "Add the first and the last digit.", [_step(first, "+", last)], first + last


def _spread(digits: Sequence[int]) -> tuple[str, list[str], int]:
    large, small = max(digits), min(digits)
    steps = [f"largest {large}", f"smallest {small}", _step(large, "-", small)]
    return "Subtract the smallest digit from the largest.", steps, large - small
