"""Keys of the released ``config.json`` files, as tables.

A table maps a field of ours to the released keys that may contain it. Reading takes the first key that is
present, writing uses the first key. Fields without a released key are in the section ``lladav``, which other
programs ignore.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lladav.config.schema import Attention, Prediction, TokenIds

Keys = Mapping[str, tuple[str, ...]]

CONFIG = "config.json"
OURS = "lladav"
"""The section of our own fields."""
OUR_FIELDS = ("name", "tokens", "images", "attention", "prediction", "allow_eos")
"""Fields of ``ModelConfig`` in our section."""

PUBLISHED_LANGUAGE: Keys = {
    "vocab_size": ("embedding_size", "vocab_size"),
    "width": ("d_model",),
    "mlp_width": ("mlp_hidden_size",),
    "layers": ("n_layers",),
    "heads": ("n_heads",),
    "kv_heads": ("n_kv_heads", "n_heads"),
    "rope_theta": ("rope_theta",),
    "norm_eps": ("rms_norm_eps",),
    "max_positions": ("max_sequence_length",),
}
RENAMED_LANGUAGE: Keys = {
    "vocab_size": ("vocab_size",),
    "width": ("hidden_size",),
    "mlp_width": ("intermediate_size",),
    "layers": ("num_hidden_layers",),
    "heads": ("num_attention_heads",),
    "kv_heads": ("num_key_value_heads", "num_attention_heads"),
    "rope_theta": ("rope_theta",),
    "norm_eps": ("rms_norm_eps",),
    "max_positions": ("max_position_embeddings",),
}
VISION: Keys = {
    "image_size": ("image_size",),
    "patch_size": ("patch_size",),
    "width": ("hidden_size",),
    "mlp_width": ("intermediate_size",),
    "layers": ("num_hidden_layers",),
    "heads": ("num_attention_heads",),
    "norm_eps": ("layer_norm_eps",),
}
SIGLIP_DEFAULTS: Mapping[str, Any] = {
    "image_size": 224,
    "patch_size": 16,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "layer_norm_eps": 1e-6,
}
"""Values that the ``config.json`` of a published tower leaves out: ``SiglipVisionConfig`` in transformers."""
FEATURE_LAYER = "mm_vision_select_layer"
STRIDE = "mm_spatial_pool_stride"
ROPE_TYPES = ("rope_type", "type")
"""Keys of the kind of rotary embedding, in ``rope_parameters`` or ``rope_scaling``."""
TOKENS: Keys = {"mask": ("mask_token_id",), "bos": ("bos_token_id",), "eos": ("eos_token_id",)}

PUBLISHED_CONSTANTS: Mapping[str, Any] = {
    "architectures": ["LLaDAModelLM"],
    "model_type": "llada",
    "activation_type": "silu",
    "block_type": "llama",
    "layer_norm_type": "rms",
    "rope": True,
    "rope_full_precision": True,
    "alibi": False,
    "include_bias": False,
    "include_qkv_bias": False,
    "bias_for_layer_norm": False,
    "weight_tying": False,
}
RENAMED_CONSTANTS: Mapping[str, Any] = {
    "architectures": ["LLaDAModelLM"],
    "model_type": "llada",
    "hidden_act": "silu",
    "attention_bias": False,
    "tie_word_embeddings": False,
}
LLAMA_CONSTANTS: Mapping[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
}
MULTIMODAL_CONSTANTS: Mapping[str, Any] = {
    "mm_projector_type": "mlp2x_gelu",
    "mm_patch_merge_type": "spatial_unpad",
    "mm_spatial_pool_mode": "bilinear",
    "mm_vision_select_feature": "patch",
    "mm_vision_tower": "google/siglip2-so400m-patch14-384",
}
LLADA_V_CONSTANTS: Mapping[str, Any] = {
    **MULTIMODAL_CONSTANTS,
    "architectures": ["LlavaLLaDAModelLM"],
    "model_type": "llava_llada",
}
LLAVA_LLAMA_CONSTANTS: Mapping[str, Any] = {
    **MULTIMODAL_CONSTANTS,
    "architectures": ["LlavaLlamaForCausalLM"],
    "model_type": "llava_llama",
}
TOWER_CONSTANTS: Mapping[str, Any] = {
    "model_type": "siglip_vision_model",
    "hidden_act": "gelu_pytorch_tanh",
    "num_channels": 3,
}
SIGLIP2_CONSTANTS: Mapping[str, Any] = {"architectures": ["SiglipVisionModel"], "vision_use_head": False}


@dataclass(frozen=True)
class Traits:
    """What a published ``config.json`` leaves to its code: the fields of ``ModelConfig`` of a model type."""

    attention: Attention
    prediction: Prediction
    tokens: TokenIds


LLADA = Traits(Attention.bidirectional, Prediction.masked, TokenIds())
LLAMA_3 = Traits(
    Attention.causal,
    Prediction.next_token,
    TokenIds(mask=None, bos=128000, eos=128001, start_header=128006, end_header=128007, eot=128009),
)
TRAITS: Mapping[str, Traits] = {"llama": LLAMA_3, "llava_llama": LLAMA_3}
"""By ``model_type``; any other type has those of LLaDA."""
