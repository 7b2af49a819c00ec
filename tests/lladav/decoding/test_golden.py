"""Golden vectors of decoding: of the engine, and of the reference decoder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lladav.decoding.engine import decode
from lladav.decoding.params import Cache, DecodingOptions
from lladav.decoding.prompt_encoder import PromptEncoder
from lladav.decoding.results import Decoded
from lladav.inputs.images import prepare_image
from lladav.inputs.samples import IMAGE_PLACEHOLDER, Sample, VisualKind
from lladav.model.llada_v import LLaDAV
from tests.lladav.build import prompt_sample
from tests.lladav.decoding.reference_decoder import reference_decode


def test_decode(golden: Any, released: LLaDAV) -> None:
    for case in cases_of(golden, "decode"):
        options = options_of(case, forbidden=forbidden(golden), guidance=case["kwargs"].get("cfg_scale", 0.0))
        assert one(released, text_prompt(golden), options).tokens == case["tokens"], case["kwargs"]


def test_stop_and_suffix(golden: Any, released: LLaDAV) -> None:
    for case in cases_of(golden, "decode_stop_suffix"):
        options = options_of(case, forbidden=forbidden(golden))
        assert one(released, text_prompt(golden), options).tokens == case["tokens"], case["kwargs"]


def test_refresh_interval(golden: Any, released: LLaDAV) -> None:
    for case in cases_of(golden, "decode_refresh"):
        options = options_of(
            case,
            confidence="factor",
            forbidden=forbidden(golden),
            refresh_interval=case["kwargs"]["prefix_refresh_interval"],
        )
        answer = one(released, prompt_of(golden, released, case["prompt"]), options)
        assert answer.tokens == case["tokens"], case["kwargs"]
        assert answer.forwards == case["forwards"], case["kwargs"]
        assert answer.positions == case["forward_tokens"], case["kwargs"]


@pytest.mark.parametrize(
    ("function", "cache"),
    [
        ("generate", Cache.none),
        ("generate_with_prefix_cache", Cache.prefix),
        ("generate_with_dual_cache", Cache.dual),
    ],
)
def test_fast_dllm(golden: Any, released: LLaDAV, function: str, cache: Cache) -> None:
    """With its caches Fast-dLLM wastes a forward after a block that the refresh has filled."""
    cases = [c for c in golden.cases["decode_fast_dllm_text"] if c["function"] == function]
    if not cases:
        pytest.skip(f"no {function} among the recorded cases")
    for case in cases:
        options = options_of(case, confidence="threshold", cache=cache, refresh_interval=None)
        answer = one(released, text_prompt(golden), options)
        assert answer.tokens == case["tokens"], case["kwargs"]
        assert answer.forwards <= case["forwards"], case["kwargs"]


def test_the_reference_decoder(golden: Any, released: LLaDAV) -> None:
    encoder = PromptEncoder(released, 0)
    for name in ("decode", "decode_stop_suffix", "decode_refresh"):
        for case in cases_of(golden, name):
            kwargs = case["kwargs"]
            if "cfg_scale" in kwargs:
                continue
            prompt = prompt_of(golden, released, case.get("prompt", "text"))
            answer = reference_decode(
                released,
                encoder.encode(prompt)[0],
                gen_length=kwargs["gen_length"],
                block_length=kwargs["block_length"],
                steps=kwargs["steps"],
                refresh_interval=kwargs.get("prefix_refresh_interval", 1),
                factor=kwargs.get("threshold"),
                stop=case["stop_ids"] if "stopping_criteria" in kwargs else (),
                suffix=case["suffix_ids"] if "generation_suffix" in kwargs else (),
                forbidden=forbidden(golden),
            )
            assert answer.tokens == case["tokens"], kwargs
            assert answer.forwards == case.get("forwards", answer.forwards), kwargs
            assert answer.positions == case.get("forward_tokens", answer.positions), kwargs


def cases_of(golden: Any, name: str) -> list[dict[str, Any]]:
    cases = golden.cases[name]
    assert cases
    return cases


def one(model: LLaDAV, prompt: Sample, options: DecodingOptions) -> Decoded:
    return decode(model, [prompt], options)[0]


def forbidden(golden: Any) -> tuple[int, ...]:
    return tuple(golden.special_ids["forbidden_when_decoding"])


def options_of(case: dict[str, Any], confidence: str = "", **settings: Any) -> DecodingOptions:
    """Options of a recorded case; ``confidence`` is our name of the parameter that it calls threshold."""
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


def prompt_of(golden: Any, model: LLaDAV, description: str) -> Sample:
    """The prompt ``text``, or an image and ids as in ``image 640x480: ids [240,5,<image>,9,10]``."""
    if description == "text":
        return text_prompt(golden)
    parts = re.fullmatch(r"image (.+): ids \[(.+)\]", description)
    assert parts is not None
    ids = [IMAGE_PLACEHOLDER if i.strip() == "<image>" else int(i) for i in parts[2].split(",")]
    image = Image.open(Path(golden.folder) / "images" / f"{parts[1]}.png").convert("RGB")
    return prompt_sample(ids, [prepare_image(image, VisualKind.tiled, model.geometry)])
