"""Pretrain the towers of the tiny model.

    python train/towers.py model=tiny data=digits
    python train/towers.py from=scratch

The published curriculum starts from pretrained towers, and so does the curriculum of the tiny model. A vision
tower that recognizes digits is written to ``model.weights.vision`` in the layout of SigLIP2. A language tower
that can answer in text is written to ``model.weights.language`` with its tokenizer, in the layout of
LLaDA-8B-Instruct, or of Llama 3 for ``objective.kind=next_token``. A tower that exists is kept. Towers
of the shipped model are taken if it has the same sizes and tokenizer; with ``from=scratch`` all are trained.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[:1] = [str(ROOT), str(ROOT / "platform")]

from data.digits.preparation import prepare  # noqa: E402 - the path comes first
from lladav.config.cli import main_arguments, one_line_errors  # noqa: E402
from lladav.config.schema import Config, ModelConfig, ModelPart  # noqa: E402
from lladav.errors import UserError  # noqa: E402
from lladav.storage import is_uri  # noqa: E402
from train.trainer.progress import format_seconds, report  # noqa: E402

if TYPE_CHECKING:
    from lladav.model.llada_v import LLaDAV

PARTS = (ModelPart.vision, ModelPart.language)
USUAL: Mapping[ModelPart, float] = MappingProxyType(dict.fromkeys(PARTS, 1.0))
FROM_SCRATCH = "from=scratch"
MAX_PARAMETERS = 10_000_000
"""Largest language tower that is pretrained here; towers of larger models are downloaded."""


def main(arguments: Sequence[str]) -> None:
    """Build the towers that the arguments describe; a user error is one line on stderr and exit code 2."""
    settings = [argument for argument in arguments if argument != FROM_SCRATCH]
    with one_line_errors():
        for config in main_arguments(settings, __doc__ or ""):
            if FROM_SCRATCH not in arguments:
                take_shipped(config)
            build(config)


def take_shipped(config: Config) -> None:
    """Write the missing towers as parts of the shipped model, if it has the sizes and the tokenizer."""
    from lladav.checkpoint import convert, shipped_model

    prepare_tokenizer(config)
    for part in PARTS:
        folder = folder_of(config.model, part)
        if not folder.is_dir() and _fits(shipped_model(), config.model, part):
            convert(shipped_model(), folder, layout_of(config.model, part))


def layout_of(model: ModelConfig, part: ModelPart) -> str:
    """The layout in which a tower is published."""
    from lladav.checkpoint.key_mapping import LANGUAGE_LAYOUTS

    return "siglip2" if part is ModelPart.vision else LANGUAGE_LAYOUTS[model.prediction]


def _fits(folder: Path, model: ModelConfig, part: ModelPart) -> bool:
    """Whether a tower of a checkpoint has the sizes of a model, and for language also its tokenizer."""
    from lladav.checkpoint import model_config_of
    from lladav.model.vision import only_used_layers

    own = model_config_of(folder)
    if part is ModelPart.vision:
        return only_used_layers(own.vision) == only_used_layers(model.vision)
    same = own.language == model.language and own.prediction is model.prediction
    return same and not _has_other_tokenizer(folder, model)


def prepare_tokenizer(config: Config) -> None:
    """Write the built-in data set if the tokenizer's folder is missing: it holds the tokenizer."""
    if not Path(config.model.tokenizer).is_dir():
        prepare(Path(config.data.root))


def build(config: Config, scales: Mapping[ModelPart, float] = USUAL) -> None:
    """Pretrain the towers that are missing; ``scales`` are the lengths relative to the usual ones.

    Raises ``UserError`` if the settings name no local folder for a tower or a model that is not tiny, or if
    the language tower exists with another tokenizer.
    """
    folders = {part: folder_of(config.model, part) for part in PARTS}
    missing = [part for part, folder in folders.items() if not folder.is_dir()]
    language = folders[ModelPart.language]
    if ModelPart.language not in missing and _has_other_tokenizer(language, config.model):
        raise UserError(
            f"{language}: has another tokenizer than {config.model.tokenizer}; remove it to train a new one"
        )
    for part, folder in folders.items():
        report(f"{part.value} tower  {folder}{'' if part in missing else '  (kept)'}")
    if missing:
        _pretrain_all(config, {part: folders[part] for part in missing}, scales)


def _has_other_tokenizer(tower: Path, model: ModelConfig) -> bool:
    own, configured = (Path(folder) / "tokenizer.json" for folder in (tower, model.tokenizer))
    return configured.is_file() and own.is_file() and own.read_bytes() != configured.read_bytes()


def folder_of(model: ModelConfig, part: ModelPart) -> Path:
    """The folder of a tower; raises ``UserError`` if it is not set or not local."""
    folder = model.weights.vision if part is ModelPart.vision else model.weights.language
    if folder is None:
        raise UserError(f"model.weights.{part.value}: is not set; name the folder to write the tower to")
    if is_uri(folder):
        raise UserError(
            f"model.weights.{part.value}={folder}: towers are written to a local folder; name one"
        )
    return Path(folder)


def _pretrain_all(config: Config, folders: dict[ModelPart, Path], scales: Mapping[ModelPart, float]) -> None:
    """Pretrain towers in parallel, each in its own process."""
    _refuse_large(config.model)
    prepare_tokenizer(config)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(folders), mp_context=spawn) as pool:
        threads = max(1, (os.cpu_count() or 1) // len(folders))
        futures = [
            pool.submit(pretrain_tower, config, part, folder, threads, scales[part])
            for part, folder in folders.items()
        ]
        for future in as_completed(futures):
            report(future.result())


def pretrain_tower(config: Config, part: ModelPart, folder: Path, threads: int, scale: float) -> str:
    """Pretrain a tower in this process and write its folder; return a line about the result."""
    import torch

    from lladav.checkpoint.exporting import export
    from lladav.model.initialization import initialize
    from lladav.model.llada_v import LLaDAV

    torch.set_num_threads(threads)
    torch.manual_seed(config.train.seed)
    model = LLaDAV(config.model)
    initialize(model, config.train.seed)
    pretrain = _pretrain_vision if part is ModelPart.vision else _pretrain_language
    result = pretrain(model, config, scale)
    tokenizer = config.model.tokenizer if part is ModelPart.language else None
    export(model, config.model, folder, layout_of(config.model, part), tokenizer=tokenizer)
    return result


def _pretrain_vision(model: LLaDAV, config: Config, scale: float) -> str:
    from train.toy_towers import vision_pretraining

    geometry, seed = model.geometry, config.train.seed
    heads, seconds = vision_pretraining.pretrain(model.vision, geometry, seed, scale)
    accuracies = vision_pretraining.accuracy(model.vision, heads, geometry, seed, scale)
    shown = ", ".join(f"{accuracy:.1%} {name}" for name, accuracy in accuracies.items())
    return f"vision tower: held-out accuracy: {shown}; {format_seconds(seconds)}"


def _pretrain_language(model: LLaDAV, config: Config, scale: float) -> str:
    from lladav.inputs.chat import ChatTokenizer
    from train.toy_towers import language_pretraining

    tokenizer = ChatTokenizer.load(config.model.tokenizer)
    seconds = language_pretraining.pretrain(model, tokenizer, config, scale)
    return f"language tower: {format_seconds(seconds)}"


def _refuse_large(model: ModelConfig) -> None:
    language = model.language
    size = language.layers * language.width * (4 * language.width + 3 * language.mlp_width)
    if size > MAX_PARAMETERS:
        raise UserError(
            f"model={model.name}: has {size / 1e6:,.0f}M parameters in its language tower; "
            "download its towers and name their folders in model.weights"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
