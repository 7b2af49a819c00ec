"""Writing adapters in the format of ``peft``, tensor by tensor."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from lladav.checkpoint.adapters import ADAPTER_WEIGHTS, DIGEST, KIND, PREFIX, AdapterBase
from lladav.checkpoint.config_fields import CONFIG
from lladav.checkpoint.config_writing import config_json
from lladav.checkpoint.exporting import to_write, widest_first, write_folder
from lladav.checkpoint.index import ADAPTER_CONFIG
from lladav.checkpoint.key_mapping import layout_for
from lladav.config.schema import LoraConfig, ModelConfig
from lladav.model.lora import DOWN, UP
from lladav.model.sharding import Gather, no_gather


def export_adapter(
    trained: Mapping[str, nn.Parameter],
    config: ModelConfig,
    lora: LoraConfig,
    base: AdapterBase,
    folder: str | Path,
    *,
    gather: Gather = no_gather,
    writes: bool = True,
    tokenizer: str | Path | None = None,
) -> None:
    """Write the trained parameters, by our names, with ``config.json`` and the files of the tokenizer.

    These are adapters and the parameters of modules that are trained in full. A collective for a sharded
    model, and raises ``UserError``, as ``export``.
    """
    layout = layout_for(config)
    names = {name: released for name in trained if (released := layout.released(name))}
    tensors = widest_first(to_write(PREFIX + names[name], trained[name], gather) for name in names)
    documents = {
        CONFIG: config_json(config, layout.name, tensors[0].spec.dtype),
        ADAPTER_CONFIG: adapter_config(names.values(), lora, base.path),
    }
    metadata = {DIGEST: base.digest} if base.digest else {}
    files = {ADAPTER_WEIGHTS: tensors}
    write_folder(Path(folder), files, documents, tokenizer, writes=writes, metadata=metadata)


def adapter_config(names: Iterable[str], lora: LoraConfig, base: str) -> dict[str, Any]:
    """The content of ``adapter_config.json`` for tensors with these released names."""
    names = list(names)
    adapted = [name.removesuffix(DOWN) for name in names if name.endswith(DOWN)]
    in_full = [name for name in names if not name.endswith((DOWN, UP))]
    return {
        **KIND,
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": _pattern(adapted),
        "modules_to_save": sorted({_module(name) for name in in_full}) or None,
        "inference_mode": True,
    }


def _pattern(modules: Iterable[str]) -> str:
    """A regular expression for the names of the modules, with any number of a layer."""
    return "|".join(sorted({re.sub(r"\\\.\d+\\\.", r"\\.\\d+\\.", re.escape(name)) for name in modules}))


def _module(parameter: str) -> str:
    """The name of the module without the number of a layer: ``model.mm_projector``, ``lm_head``."""
    return re.split(r"\.\d+\.|\.weight$", parameter)[0]
