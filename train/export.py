"""Export the newest or the best checkpoint of a run in a released layout.

python train/export.py run=vw-tiny-digits out=exported

run        name of a run in storage, the folder of a run or of weights, or a hub id such as GSAI-ML/LLaDA-V
out        folder to create; it must not exist
checkpoint newest, or best: the one with the lowest validation loss
layout     llada_v, llada, llada_hf, llava_llama, llama_hf or siglip2; the whole model by default
precision  float32 or bf16; by default that of the weights
storage    folder or URI that contains the runs

The adapter of a run with train.adapter=lora is merged into its base, in float32.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[:1] = [str(ROOT), str(ROOT / "platform")]

import torch  # noqa: E402 - the path comes first

from lladav.checkpoint import convert  # noqa: E402
from lladav.config.cli import HELP_FLAGS, one_line_errors  # noqa: E402
from lladav.config.introspection import choices_hint  # noqa: E402
from lladav.config.schema import Precision, TrainConfig  # noqa: E402
from lladav.errors import UserError  # noqa: E402
from lladav.storage import absolute, is_hub_id  # noqa: E402
from lladav.storage.local_cache import local_copy, local_model  # noqa: E402
from train.checkpoints.run_folder import WEIGHTS, Checkpoint, Run  # noqa: E402

NEWEST, BEST = "newest", "best"


@dataclass
class Settings:
    """The settings of the command line."""

    run: str = ""
    out: str = ""
    checkpoint: str = NEWEST
    layout: str | None = None
    precision: str | None = None
    storage: str = TrainConfig.storage


@dataclass(frozen=True)
class Source:
    """A local folder of weights in a released layout, and its description."""

    weights: Path
    description: str


def main(arguments: Sequence[str]) -> None:
    """Export a checkpoint; a user error is one line on stderr and exit code 2."""
    if HELP_FLAGS & set(arguments):
        print(__doc__)
        return
    with one_line_errors():
        settings = parse(arguments)
        source = find_source(settings)
        layout = convert(source.weights, settings.out, settings.layout, dtype=dtype_of(settings.precision))
        print(f"{settings.out}: {layout.what} from {source.description}, {_size(Path(settings.out))}")


def parse(arguments: Sequence[str]) -> Settings:
    """Parse ``key=value`` arguments; raises ``UserError`` for an unknown or missing key."""
    settings, known = Settings(), [field.name for field in fields(Settings)]
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if key not in known or not equals:
            raise UserError(f"{argument}: not a setting, write key=value{choices_hint(key, known)}")
        setattr(settings, key, value)
    for key in ("run", "out"):
        if not getattr(settings, key):
            raise UserError(f"{key}: needs a value, as in run=vw-tiny-digits out=exported")
    if settings.checkpoint not in (NEWEST, BEST):
        hint = choices_hint(settings.checkpoint, (NEWEST, BEST))
        raise UserError(f"checkpoint={settings.checkpoint}: no such choice{hint}")
    return settings


def dtype_of(precision: str | None) -> torch.dtype | None:
    """The number format that a choice of ``Precision`` names; raises ``UserError`` for another one."""
    if precision is None:
        return None
    if precision not in list(Precision):
        raise UserError(f"precision={precision}: no such choice{choices_hint(precision, Precision)}")
    return torch.bfloat16 if precision == Precision.bf16 else torch.float32


def find_source(settings: Settings) -> Source:
    """The weights that ``settings.run`` names; raises ``UserError`` if there are none."""
    folder = Path(settings.run)
    if (folder / "config.json").is_file():
        return Source(folder, settings.run)
    if is_hub_id(settings.run):
        return Source(local_model(settings.run), settings.run)
    run = run_at(folder.absolute()) if folder.is_dir() else Run(absolute(settings.storage), settings.run)
    checkpoint = _checkpoint(run, settings)
    return Source(local_copy(checkpoint.path / WEIGHTS), f"step {checkpoint.step} of {run.name}")


def _checkpoint(run: Run, settings: Settings) -> Checkpoint:
    newest = run.latest()
    if newest is None:
        raise UserError(
            f"run={settings.run}: {run.path} has no finished checkpoint; train it first or set storage="
        )
    if settings.checkpoint == NEWEST:
        return newest
    if (best := run.best()) is None:
        raise UserError(f"checkpoint={BEST}: {run.path} has no validations; set data.validation.share")
    return best


def run_at(folder: Path) -> Run:
    """The run in a local folder."""
    return Run(str(folder.parent), folder.name)


def _size(folder: Path) -> str:
    files = [file for file in folder.iterdir() if file.is_file()]
    return f"{len(files)} files, {sum(file.stat().st_size for file in files) / 1e6:.1f} MB"


if __name__ == "__main__":
    main(sys.argv[1:])
