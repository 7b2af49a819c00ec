"""Random Llamas of transformers, the oracle of autoregressive models, and our models with their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lladav.checkpoint import load, model_config_of
from lladav.config.schema import LanguageConfig
from lladav.model.llada_v import LLaDAV
from tests.lladav.build import tiny_ar_config, tiny_model


def random_llama(kv_heads: int, seed: int = 0) -> LlamaForCausalLM:
    """A Llama of the sizes of ``tiny_config`` with weights large enough that every part matters."""
    config = _config_of(tiny_ar_config(kv_heads=kv_heads, rope_theta=1000.0).language)
    llama, generator = LlamaForCausalLM(config).eval(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in llama.parameters():
            parameter.normal_(0.0, 0.2, generator=generator)
    return llama


def llama_of(model: LLaDAV) -> LlamaForCausalLM:
    """The language tower of our model as a Llama that generates without an end."""
    endless = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
    llama = LlamaForCausalLM(_config_of(model.config.language, **endless)).eval()
    weights = model.language.state_dict()
    llama.load_state_dict({llama_name(f"language.{name}"): each for name, each in weights.items()})
    return llama


def _config_of(shape: LanguageConfig, **settings: Any) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.width,
        intermediate_size=shape.mlp_width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=shape.max_positions,
        rms_norm_eps=shape.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        **settings,
    )


def same_model(llama: LlamaForCausalLM, folder: Path) -> LLaDAV:
    """Our model with the language tower of a Llama, read from what transformers writes to ``folder``."""
    llama.save_pretrained(folder)
    config = tiny_ar_config()
    config.language = model_config_of(folder).language
    model = tiny_model(config)
    load(model, folder)
    return model


def llama_name(ours: str) -> str:
    """The name that ``transformers`` gives one of our language parameters."""
    inner = ours.removeprefix("language.")
    return inner if inner.startswith("lm_head.") else f"model.{inner}"
