"""Held-out questions, put as the stage at hand puts them."""

from lladav.config import load
from train.questions import Question, with_suffixes

ASKED = [
    Question("a", "arithmetic", [], False, "Add all digits.", "8"),
    Question("b", "read", [], False, "Which digits are there?", "53"),
]


def test_the_last_stage_is_told_whether_steps_are_wanted():
    suffixes = load(["stage=ov_vw", "model=tiny", "data=digits"]).stage.suffixes
    texts = [question.text for question in with_suffixes(ASKED, suffixes)]
    assert texts == ["Add all digits. /think", "Which digits are there? /no_think"]


def test_other_stages_are_asked_as_it_stands():
    suffixes = load(["stage=vw", "model=tiny", "data=digits"]).stage.suffixes
    assert with_suffixes(ASKED, suffixes) == ASKED
