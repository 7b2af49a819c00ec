"""Decoding options: contradictions are refused, and settings without effect are warnings."""

from __future__ import annotations

from typing import Any

import pytest

from lladav.decoding.params import Cache, DecodingOptions
from lladav.errors import UserError
from tests.lladav.build import TOKENS
from tests.lladav.decoding.outlines import RECORDS


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"max_tokens": 8, "block_length": 3}, "block_length 3 does not divide max_tokens 8"),
        ({"max_tokens": 8, "block_length": 4, "steps": 3}, "steps 3 do not split over 2 blocks"),
        ({"steps": 4, "threshold": 0.9}, "steps and threshold exclude each other"),
        ({"tokens_per_step": 0}, "tokens_per_step is 0"),
        ({"threshold": 1.5}, "threshold is 1.5"),
        ({"factor": 0.0}, "factor is 0.0"),
        ({"factor": float("nan")}, "factor is nan"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"stop": ((),)}, "stop is"),
        ({"max_tokens": 8, "steps": 9}, "steps 9 are more than max_tokens 8"),
        ({"refresh_interval": 0}, "refresh_interval is 0"),
        ({"no_repeat_ngram": 0}, "no_repeat_ngram is 0"),
        ({"entropy": 0.0}, "entropy is 0.0"),
        ({"factor": 1.0, "entropy": 1.0}, "factor and entropy exclude each other"),
        ({"top_p": 1.5}, "top_p is 1.5; use 0 to 1"),
        ({"top_k": 0}, "top_k is 0"),
        ({"min_p": -0.1}, "min_p is -0.1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0; use 0.01 to 100"),
        ({"repetition_penalty": 5e-324}, "repetition_penalty is 5e-324"),
        ({"presence_penalty": 2.5}, "presence_penalty is 2.5; use -2 to 2"),
        ({"logit_bias": {3: 101.0}}, "logit_bias of 3 is 101.0"),
        ({"logit_bias": {3: float("nan")}}, "logit_bias of 3 is nan"),
        ({"top_logprobs": 21}, "top_logprobs is 21"),
        ({"text_options": DecodingOptions()}, "text_options is given; give an outline, too"),
        ({"guidance": -1.0}, "guidance is -1.0"),
        ({"guidance": 1e9}, "guidance is 1000000000.0"),
        ({"temperature": 101.0}, "temperature is 101.0"),
        ({"max_tokens": 4, "infill": {4: 1, 2: 1}}, r"infill has positions \[4\] outside 0 to 3"),
    ],
)
def test_invalid_options_are_refused_in_one_line(settings: dict[str, Any], error: str) -> None:
    with pytest.raises(UserError, match=error) as raised:
        DecodingOptions(**settings)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("settings", "quotas"),
    [
        ({"max_tokens": 4}, [1, 1, 1, 1]),
        ({"max_tokens": 24, "steps": 10}, [3, 3, 3, 3, 2, 2, 2, 2, 2, 2]),
        ({"max_tokens": 8, "block_length": 4, "steps": 4}, [2, 2]),
        ({"max_tokens": 7, "tokens_per_step": 3}, [3, 3, 1]),
        ({"max_tokens": 4, "threshold": 0.9}, None),
    ],
)
def test_quotas_of_a_block(settings: dict[str, Any], quotas: list[int] | None) -> None:
    assert DecodingOptions(**settings).quotas == quotas


def test_chat_options_stop_at_eot_and_forbid_template_ids() -> None:
    options = DecodingOptions.for_chat(TOKENS, max_tokens=8)
    assert options.stop == ((TOKENS.eot,),)
    assert set(options.forbidden) == {TOKENS.bos, TOKENS.eos, TOKENS.start_header, TOKENS.end_header}


def test_chat_options_may_allow_eos_which_is_a_stop_then() -> None:
    options = DecodingOptions.for_chat(TOKENS, allow_eos=True, max_tokens=8)
    assert options.stop == ((TOKENS.eot,), (TOKENS.eos,))
    assert set(options.forbidden) == {TOKENS.bos, TOKENS.start_header, TOKENS.end_header}
    own = DecodingOptions.for_chat(TOKENS, allow_eos=True, stop=((3,),), forbidden=(4,))
    assert (own.stop, own.forbidden) == (((3,),), (4,))


def test_an_answer_with_an_outline_ends_the_same_if_eos_is_allowed() -> None:
    allowed, forbidden = (
        DecodingOptions.for_chat(TOKENS, allow_eos=allow, outline=RECORDS, max_tokens=25)
        for allow in (True, False)
    )
    assert allowed == forbidden
    assert TOKENS.eos in forbidden.forbidden


@pytest.mark.parametrize(
    ("settings", "warnings"),
    [
        ({}, []),
        ({"refresh_interval": None}, []),
        ({"max_tokens": 8, "refresh_interval": 8}, []),
        ({"max_tokens": 8, "refresh_interval": 9}, ["refresh_interval 9 is above the 8 steps of a block"]),
        ({"max_tokens": 8, "steps": 2, "refresh_interval": 3}, ["refresh_interval 3 is above the 2 steps"]),
        ({"cache": Cache.dual}, ["cache dual with refresh_interval 1"]),
        ({"top_p": 0.5}, ["top_p 0.5 has no effect"]),
        ({"top_p": 0.5, "temperature": 1.0}, []),
        ({"top_p": 0.0}, []),
        ({"top_k": 5, "min_p": 0.1}, ["top_k 5 has no effect", "min_p 0.1 has no effect"]),
        ({"max_tokens": 8, "no_repeat_ngram": 7}, []),
        ({"max_tokens": 8, "no_repeat_ngram": 8}, ["no_repeat_ngram 8 has no effect on 8 tokens"]),
    ],
)
def test_settings_without_effect_are_warnings(settings: dict[str, Any], warnings: list[str]) -> None:
    found = DecodingOptions(**settings).warnings
    assert len(found) == len(warnings)
    assert all(line.startswith(expected) for line, expected in zip(found, warnings, strict=True))
