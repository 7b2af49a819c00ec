"""Build the tiny towers that the embedded curriculum starts from.

    python train/towers.py model=tiny data=digits

The published curriculum starts from pretrained towers, and so does this one: a vision tower that knows digits
goes to ``model.weights.vision`` in the layout of SigLIP2, a language tower that knows the text side goes to
``model.weights.language`` in that of LLaDA-8B-Instruct, tokenizer included. A tower that is there is kept.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
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

LAYOUTS = {ModelPart.vision: "siglip2", ModelPart.language: "llada"}
SMALL = 10_000_000
"""Parameters of the largest model whose towers are made here; the real ones are downloaded."""


def main(arguments: Sequence[str]) -> None:
    """Build the towers that the arguments describe; a user error is one line on stderr and exit code 2."""
    with one_line_errors():
        for config in main_arguments(arguments, __doc__ or ""):
            build(config)


def build(config: Config, scale: float = 1.0) -> None:
    """Make the towers that are missing; ``scale`` shortens their lessons (for tests).

    Raises ``UserError`` where the settings name no folder for them or a model that is not tiny, and for a
    language tower of another tokenizer.
    """
    folders = {part: folder_of(config.model, part) for part in LAYOUTS}
    missing = [part for part, folder in folders.items() if not folder.is_dir()]
    if ModelPart.language not in missing and _speaks_otherwise(folders[ModelPart.language], config.model):
        raise UserError(
            f"{folders[ModelPart.language]}: has another tokenizer than {config.model.tokenizer}; "
            "remove it to have it made anew"
        )
    for part, folder in folders.items():
        report(f"{part.value} tower  {folder}{'' if part in missing else '  (kept)'}")
    if missing:
        _make(config, {part: folders[part] for part in missing}, scale)


def _speaks_otherwise(tower: Path, model: ModelConfig) -> bool:
    own, wanted = (Path(folder) / "tokenizer.json" for folder in (tower, model.tokenizer))
    return wanted.is_file() and own.is_file() and own.read_bytes() != wanted.read_bytes()


def folder_of(model: ModelConfig, part: ModelPart) -> Path:
    """Where a tower belongs."""
    folder = model.weights.vision if part is ModelPart.vision else model.weights.language
    if folder is None:
        raise UserError(f"model.weights.{part.value}: is not set; name the folder that the tower goes to")
    if is_uri(folder):
        raise UserError(
            f"model.weights.{part.value}={folder}: towers are made in a local folder; copy them there"
        )
    return Path(folder)


def _make(config: Config, folders: dict[ModelPart, Path], scale: float) -> None:
    """Teach the towers side by side, each in a process of its own."""
    _refuse_large(config.model)
    if not Path(config.model.tokenizer).is_dir():
        prepare(Path(config.data.root))
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(folders), mp_context=spawn) as pool:
        threads = max(1, (os.cpu_count() or 1) // len(folders))
        made = [
            pool.submit(_make_one, config, part, folder, threads, scale) for part, folder in folders.items()
        ]
        for tower in as_completed(made):
            report(tower.result())


def _make_one(config: Config, part: ModelPart, folder: Path, threads: int, scale: float) -> str:
    """Teach a tower and write its folder; what is to be said about it."""
    import torch

    from lladav.checkpoint.exporting import export
    from lladav.model.initialization import initialize
    from lladav.model.llada_v import LLaDAV

    torch.set_num_threads(threads)
    torch.manual_seed(config.train.seed)
    model = LLaDAV(config.model)
    initialize(model, config.train.seed)
    told = (_teach_vision if part is ModelPart.vision else _teach_language)(model, config, scale)
    tokenizer = config.model.tokenizer if part is ModelPart.language else None
    export(model, config.model, folder, LAYOUTS[part], tokenizer=tokenizer)
    return told


def _teach_vision(model: LLaDAV, config: Config, scale: float) -> str:
    from train.toy_towers import vision_pretraining as vision_lessons

    heads, seconds = vision_lessons.teach(model.vision, model.geometry, config.train.seed, scale)
    shares = vision_lessons.accuracy(model.vision, heads, model.geometry, config.train.seed)
    told = ", ".join(f"{share:.1%} in {where}" for where, share in shares.items())
    return f"vision tower: held-out digits told right: {told}; {format_seconds(seconds)}"


def _teach_language(model: LLaDAV, config: Config, scale: float) -> str:
    from lladav.inputs.chat import ChatTokenizer
    from train.toy_towers import language_pretraining as language_lessons

    tokenizer = ChatTokenizer.load(config.model.tokenizer)
    seconds = language_lessons.teach(
        model.language, tokenizer, model.geometry, config.objective, config.train.seed, scale
    )
    return f"language tower: {format_seconds(seconds)}"


def _refuse_large(model: ModelConfig) -> None:
    language = model.language
    size = language.layers * language.width * (4 * language.width + 3 * language.mlp_width)
    if size > SMALL:
        raise UserError(
            f"model={model.name}: has {size / 1e6:,.0f}M parameters in its language tower; "
            "download its towers and name their folders in model.weights"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
