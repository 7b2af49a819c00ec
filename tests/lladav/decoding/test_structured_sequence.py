"""Answers that follow an outline: always permitted, however they are decoded."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lladav.decoding.engine import decode
from lladav.decoding.params import Cache, DecodingOptions
from tests.lladav.build import text_sample, tiny_model
from tests.lladav.decoding.outlines import TreeOutline, outlines

MODEL = tiny_model(std=0.3)

RULES: list[dict[str, Any]] = [
    {},
    {"tokens_per_step": 3},
    {"steps": 2},
    {"threshold": 0.3},
    {"factor": 1.0},
    {"entropy": 0.5},
]


@given(st.lists(outlines(), min_size=1, max_size=3), st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_answers_follow_their_outlines(found: list[TreeOutline], data: st.DataObject) -> None:
    for number, outline in enumerate(found):
        options = DecodingOptions(
            max_tokens=outline.longest + 2 + outline.longest % 2,
            outline=outline,
            temperature=data.draw(st.sampled_from([0.0, 2.0])),
            top_p=data.draw(st.sampled_from([1.0, 0.5])),
            cache=data.draw(st.sampled_from(list(Cache))),
            refresh_interval=data.draw(st.sampled_from([1, 2, None])),
            **data.draw(st.sampled_from(RULES)),
        )
        (answer,) = decode(MODEL, [text_sample(f"{number}", 5)], options)
        assert outline.permits(answer.tokens), answer.tokens
        assert answer.stopped
