"""Decoding settings of tasks: released names, layers, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from lladav.config.loader import CONF, group_choices, read_yaml
from lladav.decoding.params import Cache, DecodingOptions
from lladav.errors import UserError
from train.benchmarks.task_settings import SettingsLayer, TaskSettings, file_layer, resolve

PUBLISHED = {
    # length, block, steps, text behind the question
    **dict.fromkeys(
        (
            *("mmmu_val", "mmmu_pro_standard", "mmmu_pro_vision", "mmstar", "ai2d", "seedbench"),
            *("mmbench_en_dev", "muirbench", "videomme", "mlvu_dev", "mme", "realworldqa"),
        ),
        (2, 2, 2, " /no_think"),
    ),
    "chartqa": (16, 16, 16, " /no_think"),
    "docvqa_val": (32, 32, 16, " /no_think"),
    "infovqa_val": (32, 32, 16, " /no_think"),
    "mathvista_testmini": (96, 96, 48, " /think"),
    "mathverse_testmini_vision": (64, 64, 32, " /think"),
}


def resolved(*values: dict[str, Any]) -> TaskSettings:
    return resolve([SettingsLayer(f"layer {number}", each) for number, each in enumerate(values)])


def error_of(*values: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        resolved(*values)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("task", PUBLISHED)
def test_the_released_settings_of_the_17_tasks(task: str) -> None:
    settings = resolve([file_layer("released", task)])
    length, block, steps, suffix = PUBLISHED[task]
    greedy = {"max_tokens": length, "block_length": block, "steps": steps, "temperature": 0.0}
    assert settings.options == greedy
    assert settings.suffix == suffix
    assert settings.until == (("\n",) if task == "chartqa" else ())


@pytest.mark.parametrize("name", group_choices("evaluation"))
def test_all_settings_in_all_files_are_valid_for_decoding(name: str) -> None:
    for task in read_yaml(CONF / "evaluation" / f"{name}.yaml"):
        DecodingOptions(**resolve([file_layer(name, task)]).options)


def test_released_names_are_options_of_the_engine() -> None:
    settings = resolved(
        {
            "gen_length": 64,
            "block_length": 32,
            "gen_steps": 16,
            "think_mode": "think",
            "cfg": 0.5,
            "remasking": "low_confidence",
            "prefix_refresh_interval": 32,
        }
    )
    assert settings.options == {
        "max_tokens": 64,
        "block_length": 32,
        "steps": 16,
        "guidance": 0.5,
        "refresh_interval": 32,
        "temperature": 0.0,
    }
    assert settings.suffix == " /think"


def test_options_of_the_engine_by_their_own_names() -> None:
    options = resolved({"cache": "dual", "refresh_interval": "none", "threshold": 0.9, "seed": 3}).options
    assert (options["cache"], options["refresh_interval"]) == (Cache.dual, None)
    assert (options["threshold"], options["seed"]) == (0.9, 3)


class TestLayers:
    """A later layer overrides an earlier one."""

    def test_later_values_win(self):
        options = resolved({"gen_length": 64, "cfg": 1.0}, {"gen_length": 32}, {"max_tokens": 16}).options
        assert (options["max_tokens"], options["guidance"]) == (16, 1.0)

    def test_a_rule_replaces_the_rule_below(self):
        options = resolved({"gen_length": 32, "gen_steps": 16}, {"threshold": 0.9}).options
        assert options["threshold"] == 0.9
        assert "steps" not in options

    def test_stop_texts_add_up(self):
        assert resolved({"until": ["\n"]}, {"until": "Q:"}, {"until": []}).until == ("\n", "Q:")

    def test_none_is_left_out(self):
        options = resolved({"block_length": 8}, {"block_length": None, "top_p": None}).options
        assert options == {"block_length": 8, "temperature": 0.0}

    @pytest.mark.parametrize(
        "layers", [[{"gen_length": 96}, {"max_new_tokens": 16384}], [{"gen_length": 96}]]
    )
    def test_max_new_tokens_does_not_override_a_length(self, layers: list[dict[str, Any]]):
        assert resolved(*layers).options["max_tokens"] == 96

    def test_max_new_tokens_is_the_length_if_no_layer_sets_one(self):
        assert resolved({"block_length": 8}, {"max_new_tokens": 16}).options["max_tokens"] == 16


class TestSampling:
    """Settings of Hugging Face's ``generate``, which tasks have."""

    @pytest.mark.parametrize(
        "given",
        [
            {"temperature": 0, "top_p": 0, "top_k": 1, "num_beams": 1},
            {"temperature": 0.2, "do_sample": False, "top_p": 1.0},
            {"do_sample": False},
            {},
        ],
    )
    def test_greedy(self, given: dict[str, Any]):
        assert resolved(given).options == {"temperature": 0.0}

    def test_sampled(self):
        assert resolved({"do_sample": True, "top_p": 0.9}).options == {"temperature": 1.0, "top_p": 0.9}
        assert resolved({"temperature": 0.7, "top_k": 0}).options == {"temperature": 0.7}
        assert resolved({"temperature": 0.7, "top_k": 5}).options == {"temperature": 0.7, "top_k": 5}

    def test_penalties_are_options_of_the_engine(self):
        assert resolved({"repetition_penalty": 1.2, "presence_penalty": 1}).options == {
            "temperature": 0.0,
            "repetition_penalty": 1.2,
            "presence_penalty": 1.0,
        }

    def test_eos_is_allowed(self):
        assert resolved({"allow_eos": True}).options == {"temperature": 0.0, "allow_eos": True}

    def test_a_layer_of_the_model_makes_a_task_sample(self):
        assert resolved({"temperature": 0.7}, {"max_new_tokens": 8}).options["temperature"] == 0.7


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"gen_lenght": 2}, "layer 0: gen_lenght: unknown decoding setting; did you mean gen_length?"),
        ({"zzz": 2}, "layer 0: zzz: unknown decoding setting; remove it"),
        ({"gen_length": 2, "max_tokens": 3}, "are the same setting; keep one of them"),
        ({"gen_length": "many"}, "layer 0: gen_length='many': not a value"),
        ({"gen_length": True}, "not a value"),
        ({"gen_length": 2.5}, "not a value"),
        ({"think_mode": "maybe"}, "not a value"),
        ({"cache": "all"}, "not a value"),
        ({"until": [3]}, "not a value"),
        ({"do_sample": 1}, "not a value"),
        ({"allow_eos": "perhaps"}, "not a value"),
        ({"remasking": "random"}, "remasking=random is not supported; use low_confidence"),
        ({"num_beams": 4}, "num_beams=4 is not supported; use 1, or leave it out"),
        ({"image_aspect_ratio": "pad"}, "image_aspect_ratio=pad is not supported; use original"),
        ({"visual_cot": True}, "visual_cot: unknown decoding setting"),
    ],
)
def test_what_the_engine_cannot_honour_is_refused(given: dict[str, Any], says: str) -> None:
    assert says in error_of(given)


def test_a_task_without_settings_in_the_file_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"settings=released: has no settings for task mme_cot; leave settings out"
    ):
        file_layer("released", "mme_cot")
    with pytest.raises(
        UserError, match=r"settings=relased: no such file in conf/evaluation; did you mean released"
    ):
        file_layer("relased", "mme")
