"""Tensor names of the released layouts, as tables.

A rename is a pair of prefixes, ours and the released one; the first match counts. ``*`` stands for the number
of a layer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from lladav.config.introspection import choices_hint
from lladav.config.schema import ModelConfig, Prediction
from lladav.errors import UserError

PROJECTOR = (
    ("projector.", "model.mm_projector."),
    ("newline", "model.image_newline"),
)
RENAMED_LANGUAGE = (
    ("language.embed_tokens.", "model.embed_tokens."),
    ("language.layers.*.", "model.layers.*."),
    ("language.norm.", "model.norm."),
    ("language.lm_head.", "lm_head."),
)
PUBLISHED_LANGUAGE = (
    ("language.embed_tokens.", "model.transformer.wte."),
    ("language.layers.*.input_layernorm.", "model.transformer.blocks.*.attn_norm."),
    ("language.layers.*.self_attn.q_proj.", "model.transformer.blocks.*.q_proj."),
    ("language.layers.*.self_attn.k_proj.", "model.transformer.blocks.*.k_proj."),
    ("language.layers.*.self_attn.v_proj.", "model.transformer.blocks.*.v_proj."),
    ("language.layers.*.self_attn.o_proj.", "model.transformer.blocks.*.attn_out."),
    ("language.layers.*.post_attention_layernorm.", "model.transformer.blocks.*.ff_norm."),
    ("language.layers.*.mlp.gate_proj.", "model.transformer.blocks.*.ff_proj."),
    ("language.layers.*.mlp.up_proj.", "model.transformer.blocks.*.up_proj."),
    ("language.layers.*.mlp.down_proj.", "model.transformer.blocks.*.ff_out."),
    ("language.norm.", "model.transformer.ln_f."),
    ("language.lm_head.", "model.transformer.ff_out."),
)
TOWER = "vision_model."
TOWER_IN_LLADA_V = "model.vision_tower.vision_tower.vision_model."
UNUSED_OF_TOWER = (
    "embeddings.position_ids",
    "encoder.layers.<unused>.",
    "head.",
)

BUFFERS = (".rotary_emb.inv_freq", ".rotary_emb.cos_cached", ".rotary_emb.sin_cached")
"""Suffixes of tensors in old checkpoints that the model computes from the config."""


@dataclass(frozen=True)
class KeyMapping:
    """One released layout. ``ignored`` are prefixes of tensors that the model does not need.

    ``prediction`` is that of the models which other programs expect in this layout; None: of any.
    ``<unused>`` in an ignored prefix stands for a layer of the published vision tower behind the feature
    layer.
    """

    name: str
    what: str
    renames: tuple[tuple[str, str], ...]
    prediction: Prediction | None
    ignored: tuple[str, ...] = ()

    def released(self, ours: str) -> str | None:
        """Return the released name of one of our parameters; None if the layout does not contain it."""
        return next((new for old, to in self.renames if (new := _renamed(ours, old, to))), None)

    def knows(self, released: str) -> bool:
        """Whether a released name belongs to the layout."""
        return any(_renamed(released, to, old) for old, to in self.renames)

    def ignores(self, released: str, unused_layers: Iterable[int]) -> bool:
        """Whether a tensor is skipped on purpose."""
        layers = [str(layer) for layer in unused_layers]
        prefixes = {p.replace("<unused>", layer) for p in self.ignored for layer in (*layers, "<unused>")}
        return released.startswith(tuple(prefixes))

    @staticmethod
    def computes(released: str) -> bool:
        """Whether a tensor is a buffer that the model computes itself."""
        return released.endswith(BUFFERS)


WHOLE = (*RENAMED_LANGUAGE, *PROJECTOR, (f"vision.{TOWER}", TOWER_IN_LLADA_V))
UNUSED_OF_WHOLE = tuple(TOWER_IN_LLADA_V + name for name in UNUSED_OF_TOWER)

LAYOUTS = {
    layout.name: layout
    for layout in (
        KeyMapping("llada", "LLaDA-8B-Instruct as published", PUBLISHED_LANGUAGE, Prediction.masked),
        KeyMapping("llada_hf", "LLaDA-8B-Instruct, renamed", RENAMED_LANGUAGE, Prediction.masked),
        KeyMapping("llama_hf", "Llama 3 as published", RENAMED_LANGUAGE, Prediction.next_token),
        KeyMapping(
            "siglip2",
            "SigLIP2 vision tower",
            ((f"vision.{TOWER}", TOWER),),
            None,
            ("text_model.", "logit_scale", "logit_bias", *(TOWER + name for name in UNUSED_OF_TOWER)),
        ),
        KeyMapping("llada_v", "LLaDA-V", WHOLE, Prediction.masked, UNUSED_OF_WHOLE),
        KeyMapping("llava_llama", "LLaMA3-V", WHOLE, Prediction.next_token, UNUSED_OF_WHOLE),
    )
}
LANGUAGE_LAYOUTS = {Prediction.masked: "llada", Prediction.next_token: "llama_hf"}
"""The layout in which the language tower of a model is published."""
WHOLE_LAYOUTS = {Prediction.masked: "llada_v", Prediction.next_token: "llava_llama"}
"""The layout of a whole model."""


def layout_named(name: str) -> KeyMapping:
    """Return a layout by name. Raises ``UserError`` for an unknown name."""
    if name not in LAYOUTS:
        raise UserError(f"layout={name}: no such layout{choices_hint(name, LAYOUTS)}")
    return LAYOUTS[name]


def layout_for(config: ModelConfig, name: str | None = None) -> KeyMapping:
    """Return the layout to write a model in: the named one, by default that of the whole model.

    Raises ``UserError`` if other programs expect a model with another objective in the layout.
    """
    layout = layout_named(name or WHOLE_LAYOUTS[config.prediction])
    if layout.prediction not in (None, config.prediction):
        fitting = [each.name for each in LAYOUTS.values() if each.prediction in (None, config.prediction)]
        raise UserError(
            f"layout={layout.name}: is for models with objective.kind={layout.prediction}, and this one has "
            f"{config.prediction}; use {', '.join(fitting)}"
        )
    return layout


def detect(names: Iterable[str], where: str) -> KeyMapping:
    """Return the layout that knows most of the tensor names; ``where`` begins the error line.

    Of layouts with the same names, which differ in ``config.json`` only, it returns the first.
    """
    names = list(names)
    counts = {layout.name: sum(map(layout.knows, names)) for layout in LAYOUTS.values()}
    best = max(counts, key=lambda name: counts[name])
    if not counts[best]:
        example = f"its first tensor is {names[0]}" if names else "it holds no tensor"
        known = ", ".join(layout.what for layout in LAYOUTS.values())
        raise UserError(f"{where}: in none of the released layouts ({known}); {example}")
    return LAYOUTS[best]


def _renamed(name: str, old: str, new: str) -> str | None:
    match = _prefix(old).match(name)
    if match is None:
        return None
    number = match.group(1) if match.groups() else ""
    return new.replace("*", number) + name[match.end() :]


@cache
def _prefix(prefix: str) -> re.Pattern[str]:
    whole = "" if prefix.endswith(".") else r"\Z"
    return re.compile(re.escape(prefix).replace(r"\*", r"(\d+)") + whole)
