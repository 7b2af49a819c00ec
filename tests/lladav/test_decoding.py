"""The plain decoding loop, alone and in batches."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lladav.decoding.options import DecodingOptions
from lladav.decoding.plain import Decoded, decode
from lladav.errors import UserError
from lladav.images import prepare_image
from lladav.model.llada_v import LLaDAV
from lladav.packing import pack
from lladav.samples import IMAGE_PLACEHOLDER, Sample, VisualKind
from lladav.schema import Attention
from tests.lladav.build import (
    TOKENS,
    image_sample,
    packed_logits,
    prompt_sample,
    text_of,
    text_sample,
    tiny_model,
    variant,
)


def test_golden_decode(golden: Any, released: LLaDAV) -> None:
    cases = [case for case in golden.cases["decode"] if "cfg_scale" not in case["kwargs"]]
    assert cases
    for case in cases:
        answer = one(released, text_prompt(golden), options_of(case, forbidden=forbidden(golden)))
        assert answer.tokens == case["tokens"], case["kwargs"]


def test_golden_stop_and_suffix(golden: Any, released: LLaDAV) -> None:
    for case in golden.cases["decode_stop_suffix"]:
        answer = one(released, text_prompt(golden), options_of(case, forbidden=forbidden(golden)))
        assert answer.tokens == case["tokens"], case["kwargs"]


def test_golden_fast_dllm_without_cache(golden: Any, released: LLaDAV) -> None:
    cases = [case for case in golden.cases["decode_fast_dllm_text"] if case["function"] == "generate"]
    assert cases
    for case in cases:
        answer = one(released, text_prompt(golden), options_of(case, confidence="threshold"))
        assert (answer.tokens, answer.forwards) == (case["tokens"], case["forwards"]), case["kwargs"]


def test_golden_refresh_at_every_step(golden: Any, released: LLaDAV) -> None:
    cases = [c for c in golden.cases["decode_refresh"] if c["kwargs"]["prefix_refresh_interval"] == 1]
    assert cases
    for case in cases:
        options = options_of(case, confidence="factor", forbidden=forbidden(golden))
        answer = one(released, prompt_of(golden, released, case["prompt"]), options)
        assert answer.tokens == case["tokens"], case["kwargs"]
        assert answer.forwards == case["forwards"], case["kwargs"]
        assert answer.positions == case["forward_tokens"], case["kwargs"]


def one(model: LLaDAV, prompt: Sample, options: DecodingOptions) -> Decoded:
    return decode(model, [prompt], options)[0]


def forbidden(golden: Any) -> tuple[int, ...]:
    return tuple(golden.special_ids["forbidden_when_decoding"])


def options_of(case: dict[str, Any], confidence: str = "", **settings: Any) -> DecodingOptions:
    """Options of a recorded case; ``confidence`` is our name of what it calls threshold."""
    kwargs = case["kwargs"]
    rule = {confidence: kwargs["threshold"]} if "threshold" in kwargs else {"steps": kwargs["steps"]}
    if "stopping_criteria" in kwargs:
        settings["stop"] = (tuple(case["stop_ids"]),)
    if "generation_suffix" in kwargs:
        settings["suffix"] = tuple(case["suffix_ids"])
    return DecodingOptions(
        max_tokens=kwargs["gen_length"], block_length=kwargs["block_length"], **rule, **settings
    )


def text_prompt(golden: Any) -> Sample:
    return prompt_sample(golden.tensors["decode.prompt_ids"].flatten().tolist())


def prompt_of(golden: Any, model: LLaDAV, words: str) -> Sample:
    """``text``, or an image named and placed as in ``image 640x480: ids [240,5,<image>,9,10]``."""
    if words == "text":
        return text_prompt(golden)
    parts = re.fullmatch(r"image (.+): ids \[(.+)\]", words)
    assert parts is not None
    ids = [IMAGE_PLACEHOLDER if i.strip() == "<image>" else int(i) for i in parts[2].split(",")]
    image = Image.open(Path(golden.folder) / "images" / f"{parts[1]}.png").convert("RGB")
    return prompt_sample(ids, [prepare_image(image, VisualKind.tiled, model.geometry)])


OPTIONS = [
    DecodingOptions(max_tokens=12, block_length=4),
    DecodingOptions(max_tokens=12, block_length=6, steps=4, suffix=(7, 8)),
    DecodingOptions(max_tokens=12, block_length=4, threshold=0.3, stop=((3,), (9, 9))),
    DecodingOptions(max_tokens=12, factor=1.0, forbidden=(1, 2)),
    DecodingOptions(max_tokens=12, block_length=4, temperature=0.8, seed=3),
]


@pytest.mark.parametrize("options", OPTIONS)
def test_batch_equals_each_prompt_alone(options: DecodingOptions) -> None:
    model = tiny_model(std=0.3)
    prompts = some_prompts(model)
    together = decode(model, prompts, options)
    assert together == [one(model, prompt, options) for prompt in some_prompts(model)]


def test_dialogue_causal_batch_equals_each_prompt_alone() -> None:
    model = variant(tiny_model(std=0.3), attention=Attention.dialogue_causal)
    turns = [0, 0, 0, 1, 1]
    prompts = [Sample("turns", text_of([1, 2, 3, 4, 5], turns=turns)), text_sample("flat", 7)]
    options = DecodingOptions(max_tokens=6, tokens_per_step=2)
    assert decode(model, prompts, options) == [one(model, prompt, options) for prompt in prompts]


def test_answer_belongs_to_the_last_turn_of_its_prompt() -> None:
    model = variant(tiny_model(std=0.3), attention=Attention.dialogue_causal)
    ids, turns = [1, 2, 3, 4, 5], [0, 0, 0, 1, 1]
    canvas = Sample("canvas", text_of([*ids, TOKENS.mask], turns=[*turns, 1]))
    expected = packed_logits(model, pack([canvas], model.geometry))[-1].argmax().item()
    prompt = Sample("prompt", text_of(ids, turns=turns))
    assert one(model, prompt, DecodingOptions(max_tokens=1)).tokens == [expected]


def test_rows_that_are_done_take_no_more_forwards() -> None:
    model = tiny_model(std=0.3)
    options = DecodingOptions(max_tokens=12, block_length=4)
    prompts = some_prompts(model)
    free = decode(model, prompts, options)
    stop = free[0].tokens[2]
    stopped = decode(model, prompts, DecodingOptions(max_tokens=12, block_length=4, stop=((stop,),)))
    assert stopped[0].tokens == free[0].tokens[: free[0].tokens.index(stop)]
    assert stopped[0].forwards <= 4 < free[0].forwards


def test_stop_of_several_tokens_ends_the_answer_before_it() -> None:
    model = tiny_model(std=0.3)
    free = one(model, text_sample("p", 6), DecodingOptions(max_tokens=12, block_length=1)).tokens
    pair = (free[4], free[5])
    first = next(n for n in range(11) if (free[n], free[n + 1]) == pair)
    stopped = one(model, text_sample("p", 6), DecodingOptions(max_tokens=12, block_length=1, stop=(pair,)))
    assert stopped.tokens == free[:first]
    assert stopped.forwards == first + 2


def test_stop_longer_than_the_canvas_is_never_found() -> None:
    options = DecodingOptions(max_tokens=2, stop=((1, 2, 3),))
    assert len(one(tiny_model(), text_sample("p", 4), options).tokens) == 2


def test_forbidden_tokens_never_appear() -> None:
    model = tiny_model(std=0.3)
    allowed = 5
    options = DecodingOptions(max_tokens=12, forbidden=tuple(range(allowed, 70)), temperature=1.0)
    assert max(one(model, text_sample("p", 6), options).tokens) < allowed


def test_model_that_only_says_mask_still_ends() -> None:
    model = tiny_model()
    everything_else = tuple(i for i in range(70) if i != TOKENS.mask)
    block = DecodingOptions(max_tokens=6, block_length=3, forbidden=everything_else)
    for options in (block, replace(block, threshold=0.9), replace(block, factor=1.0)):
        answer = one(model, text_sample("p", 4), options)
        assert answer.tokens == [TOKENS.mask] * 6
        assert answer.forwards == 6


def test_sampling_follows_the_seed() -> None:
    model = tiny_model(std=0.3)
    prompt = text_sample("p", 6)
    answers = [
        one(model, prompt, DecodingOptions(max_tokens=12, temperature=1.0, seed=seed)).tokens
        for seed in (1, 1, 2)
    ]
    assert answers[0] == answers[1] != answers[2]


def test_views_are_encoded_once_for_all_steps() -> None:
    model = tiny_model()
    calls: list[int] = []
    model.vision.register_forward_hook(lambda *_: calls.append(1))
    one(model, image_sample("i", model.geometry, [(40, 30)]), DecodingOptions(max_tokens=6))
    assert len(calls) == 1


def test_only_competing_positions_meet_the_vocabulary() -> None:
    model = tiny_model()
    rows: list[int] = []
    model.language.lm_head.register_forward_hook(lambda _, given, __: rows.append(len(given[0])))
    one(model, text_sample("p", 9), DecodingOptions(max_tokens=6, block_length=3))
    assert rows == [3, 2, 1, 3, 2, 1]


def test_no_prompts_give_no_answers() -> None:
    assert decode(tiny_model(), [], DecodingOptions()) == []


@pytest.mark.parametrize(
    ("options", "length", "complaint"),
    [
        ({"forbidden": (70,)}, 4, r"ids \[70\] are outside the vocabulary of 70"),
        ({"stop": ((-1,),)}, 4, r"ids \[-1\] are outside"),
        ({"max_tokens": 4096}, 1, "sample p: 1 tokens and 4096 of the answer exceed the model's 4096"),
        ({}, 0, "sample p: the prompt is empty"),
    ],
)
def test_requests_the_model_cannot_take_are_refused(
    options: dict[str, Any], length: int, complaint: str
) -> None:
    with pytest.raises(UserError, match=complaint):
        one(tiny_model(), text_sample("p", length), DecodingOptions(**options))


def test_causal_model_is_refused() -> None:
    model = variant(tiny_model(), attention=Attention.causal)
    with pytest.raises(UserError, match="causal"):
        one(model, text_sample("p", 4), DecodingOptions())


def some_prompts(model: LLaDAV) -> list[Sample]:
    """Rows of different lengths, one of them with an image."""
    image = image_sample("image", model.geometry, [(40, 30)])
    return [text_sample("short", 3, seed=1), image, text_sample("long", 17, seed=2)]
