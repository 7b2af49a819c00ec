"""Random Llamas of transformers, the oracle of autoregressive models, and our models with their weights."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lladav.checkpoint import load, model_config_of
from lladav.model.llada_v import LLaDAV
from tests.lladav.build import tiny_ar_config, tiny_model


def random_llama(kv_heads: int, seed: int = 0) -> LlamaForCausalLM:
    """A Llama of the sizes of ``tiny_config`` with weights large enough that every part matters."""
    shape = tiny_ar_config(kv_heads=kv_heads).language
    config = LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.width,
        intermediate_size=shape.mlp_width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=shape.max_positions,
        rms_norm_eps=shape.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
    )
    llama, generator = LlamaForCausalLM(config).eval(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in llama.parameters():
            parameter.normal_(0.0, 0.2, generator=generator)
    return llama


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
