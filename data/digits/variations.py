"""Variations of training records: questions in other wordings, and answers as JSON.

The variation of a record follows from its id, so images and digits of a set do not depend on it.
"""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np

from data.digits import json_answers, wordings
from data.digits.questions import Pair, choose
from data.digits.records import DigitRecord

REWORDED_SHARE = 0.35
"""Share of the questions that are asked in a random wording."""

JSON_SHARE = 0.1
"""Share of the questions with a short answer that ask for JSON."""

UNVARIED = ("caption", "description")
"""Kinds of records that stay as they are."""


def varied(record: DigitRecord) -> DigitRecord:
    """The record with some of its questions in another wording and some answers as JSON."""
    if record.kind in UNVARIED:
        return record
    rng = generator(record.id)
    return replace(record, pairs=[_varied(pair, rng) for pair in record.pairs])


def generator(record_id: str) -> np.random.Generator:
    """The random generator of a record's variation."""
    return np.random.default_rng([zlib.crc32(b"variation"), zlib.crc32(record_id.encode())])


def asking_for_json(question: str, rng: np.random.Generator) -> str:
    """The question with a sentence that asks for JSON."""
    return f"{question} {choose(json_answers.REQUESTS, rng)}"


def in_other_words(question: str, rng: np.random.Generator) -> str:
    """The question, in another wording for ``REWORDED_SHARE`` of the draws."""
    return wordings.reworded(question, rng) if rng.random() < REWORDED_SHARE else question


def _varied(pair: Pair, rng: np.random.Generator) -> Pair:
    question, answer = pair
    asked = in_other_words(question, rng)
    if "=" in answer or rng.random() >= JSON_SHARE:
        return asked, answer
    return asking_for_json(asked, rng), json_answers.standard(question, answer)
