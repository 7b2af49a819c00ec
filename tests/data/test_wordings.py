"""Other wordings of questions: many, none of them held out, and each asks the same."""

from __future__ import annotations

import numpy as np
import pytest

from data.digits import questions, wordings


def drawn(question: str, total: int = 300) -> set[str]:
    rng = np.random.default_rng(0)
    return {wordings.reworded(question, rng) for _ in range(total)}


def asked() -> set[str]:
    """Questions of every kind about some digits."""
    rng = np.random.default_rng(1)
    digits = [3, 8, 1]
    single = {ask(digits, rng)[0] for ask in questions.SINGLE.values() for _ in range(20)}
    several = {questions.multi_image([digits, [4]], rng)[0] for _ in range(40)}
    others = (questions.arithmetic, questions.video)
    of_digits = {ask(digits, rng)[0] for ask in others for _ in range(20)}
    texts = {ask(rng)[0] for ask in (questions.text_only, questions.sum_in_words) for _ in range(20)}
    return single | several | of_digits | texts


@pytest.mark.parametrize("question", sorted(asked()))
def test_every_question_has_other_wordings_without_signs_of_templates(question: str):
    found = drawn(question)
    assert len(found) > 2
    assert not any(set("[]|{}") & set(wording) for wording in found)
    assert not any("  " in wording or " ." in wording for wording in found)


def test_ordinals_and_numbers_are_kept():
    assert all("second" in wording for wording in drawn("Is the second digit even or odd?"))
    assert all("7 - 2" in wording for wording in drawn("What is 7 - 2?"))


def test_no_wording_is_nearly_a_held_out_one():
    held_out = [wording for each in questions.REWORDED.values() for wording in each]
    assert all(map(wordings.is_held_out, held_out))
    assert wordings.is_held_out("Name the largest of all the digits.")
    found = set().union(*(drawn(question, 2000) for question in (*questions.READ, *questions.COUNT)))
    assert len(found) > 500
    assert not found & set(held_out)
    assert not any(map(wordings.is_held_out, found))


def test_other_questions_stay_as_they_are():
    assert drawn("Describe the image.") == {"Describe the image."}
