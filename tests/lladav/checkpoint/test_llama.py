"""Llama's layout: what transformers writes is read, and transformers reads what is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from lladav.checkpoint import check_model, convert, export, model_config_of, open_model
from lladav.checkpoint.config_reading import check_architecture
from lladav.config.loader import load as load_settings
from lladav.config.schema import Attention, Prediction, TokenIds
from lladav.errors import UserError
from lladav.inputs.packing import pack
from lladav.model.language import LanguageTower
from tests.lladav.build import packed_logits, text_sample, tiny_ar_config, tiny_config, tiny_model
from tests.lladav.llama import random_llama, same_model

PUBLISHED = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 128000,
    "eos_token_id": 128009,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "max_position_embeddings": 8192,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 128256,
}
"""``config.json`` of Meta-Llama-3-8B-Instruct."""


def written(folder: Path, **changes: Any) -> Path:
    content = {key: value for key, value in {**PUBLISHED, **changes}.items() if value != "absent"}
    (folder / "config.json").write_text(json.dumps(content))
    return folder


def test_the_published_config_is_that_of_conf_model(tmp_path: Path) -> None:
    config, ours = model_config_of(written(tmp_path)), load_settings(["model=llama3_v_8b"]).model
    ours.language.max_positions = 8192
    assert config.language == ours.language
    assert config.tokens == ours.tokens, "the EOS of the published config is the end of a turn"
    assert (config.attention, config.prediction) == (Attention.causal, Prediction.next_token)
    assert (ours.attention, ours.prediction) == (Attention.causal, Prediction.next_token)


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_theta": "absent", "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}},
        {"rope_scaling": {"type": "default"}},
        {"head_dim": 128},
        {"eos_token_id": [128001, 128008, 128009]},
    ],
)
def test_other_spellings_of_the_same_tower(tmp_path: Path, changes: dict[str, Any]) -> None:
    (tmp_path / "other").mkdir()
    expected, found = written(tmp_path), written(tmp_path / "other", **changes)
    assert model_config_of(found).language == model_config_of(expected).language
    assert model_config_of(found).tokens == TokenIds(None, 128000, 128001, 128006, 128007, 128009)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
            "rope_type is 'llama3'; only towers without a scaled rotary embedding can be used",
        ),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type is 'linear'; only towers without"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_type is 'yarn'; only towers"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings is True; only towers with False can be used"),
        ({"attention_bias": True}, "attention_bias is True; only towers with False can be used"),
        ({"mlp_bias": True}, "mlp_bias is True; only towers with False can be used"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; only towers with 'silu' can be used"),
        ({"head_dim": 64}, "head_dim is 64; expected hidden_size / num_attention_heads"),
        ({"rope_theta": "absent"}, "lacks rope_theta; expected a number such as 500000.0"),
    ],
)
def test_another_architecture_is_refused_in_one_line(
    tmp_path: Path, changes: dict[str, Any], line: str
) -> None:
    with pytest.raises(UserError) as caught:
        model_config_of(written(tmp_path, **changes))
    assert str(caught.value).startswith(f"{tmp_path / 'config.json'}: {line}")
    assert "\n" not in str(caught.value)


def test_weights_of_another_architecture_are_refused_before_training(tmp_path: Path) -> None:
    check_architecture(tmp_path)  # no config.json: nothing to check
    check_architecture(written(tmp_path))
    with pytest.raises(UserError, match="'llama3'; only towers without a scaled rotary embedding"):
        check_architecture(written(tmp_path, rope_scaling={"rope_type": "llama3"}))


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_a_tower_goes_from_transformers_to_transformers(tmp_path: Path, kv_heads: int) -> None:
    llama = random_llama(kv_heads)
    model = same_model(llama, tmp_path / "llama")
    export(model, model.config, tmp_path / "out", "llama_hf")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert type(again) is type(llama)
    theirs = dict(llama.named_parameters())
    assert dict(again.named_parameters()).keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in again.named_parameters())
    packed = pack([text_sample("a", 12)], model.geometry)
    with torch.no_grad():
        logits = again(packed.token_ids_T[None]).logits[0]
    torch.testing.assert_close(packed_logits(model, packed), logits, atol=2e-5, rtol=1e-4)


def test_an_exported_tower_is_read_back(tmp_path: Path) -> None:
    config = tiny_ar_config(kv_heads=2)
    export(tiny_model(config), config, tmp_path / "out", "llama_hf")
    again = model_config_of(tmp_path / "out")
    assert (again.language, again.tokens, again.prediction) == (config.language, config.tokens, "next_token")


def test_a_whole_model_is_a_llava_of_llama(tmp_path: Path) -> None:
    model = tiny_model(tiny_ar_config(kv_heads=2))
    export(model, model.config, tmp_path / "out")
    raw = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (raw["model_type"], raw["architectures"]) == ("llava_llama", ["LlavaLlamaForCausalLM"])
    check_model(tmp_path / "out")
    again = open_model(tmp_path / "out", torch.float32)
    assert again.config.prediction is Prediction.next_token
    assert again.config.attention is Attention.causal
    packed = pack([text_sample("a", 12)], model.geometry)
    torch.testing.assert_close(packed_logits(again, packed), packed_logits(model, packed))


def test_a_layout_of_models_with_another_objective_is_refused(tmp_path: Path) -> None:
    export(tiny_model(tiny_ar_config()), tiny_ar_config(), tmp_path / "ar")
    line = r"^layout=llada_v: is for models with objective\.kind=masked, and this one has next_token; use "
    with pytest.raises(UserError, match=line):
        convert(tmp_path / "ar", tmp_path / "out", "llada_v")
    with pytest.raises(UserError, match="layout=llama_hf: is for models with"):
        export(tiny_model(), tiny_config(), tmp_path / "out", "llama_hf")
    assert not (tmp_path / "out").exists()


def test_the_published_tower_has_the_published_number_of_parameters() -> None:
    language = load_settings(["model=llama3_v_8b"]).model.language
    with torch.device("meta"):
        tower = LanguageTower(language)
    assert sum(parameter.numel() for parameter in tower.parameters()) == 8_030_261_248
