"""Write the newest checkpoint of a run in a released layout.

python train/export.py run=vw-tiny-digits out=exported

run      name of a run in storage, or the folder of a run or of released weights
out      folder to make; it must not exist yet
layout   llada_v, llada, llada_hf or siglip2
storage  folder or URI of the runs
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[:1] = [str(ROOT), str(ROOT / "platform")]

from lladav.checkpoint import LAYOUTS, convert  # noqa: E402 - the path comes first
from lladav.config.cli import one_line_errors  # noqa: E402
from lladav.config.introspection import choices_hint  # noqa: E402
from lladav.config.schema import TrainConfig  # noqa: E402
from lladav.errors import UserError  # noqa: E402
from lladav.storage import absolute  # noqa: E402
from lladav.storage.local_cache import local_copy  # noqa: E402
from train.checkpoints.run_folder import WEIGHTS, Run  # noqa: E402


@dataclass
class Settings:
    """What the command line says."""

    run: str = ""
    out: str = ""
    layout: str = "llada_v"
    storage: str = TrainConfig.storage


@dataclass(frozen=True)
class Source:
    """Released weights as a local folder, and what they are."""

    weights: Path
    what: str


def main(arguments: Sequence[str]) -> None:
    """Export as the arguments say; a mistake is one line on stderr and exit code 2."""
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return
    with one_line_errors():
        given = parse(arguments)
        source = source_of(given)
        convert(source.weights, given.out, given.layout)
        print(f"{given.out}: {LAYOUTS[given.layout].what} from {source.what}, {_size(Path(given.out))}")


def parse(arguments: Sequence[str]) -> Settings:
    """The settings of ``key=value`` arguments; raises ``UserError`` for an unknown or a missing one."""
    given, known = Settings(), [field.name for field in fields(Settings)]
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if key not in known or not equals:
            raise UserError(f"{argument}: not a setting, write key=value{choices_hint(key, known)}")
        setattr(given, key, value)
    for key in ("run", "out"):
        if not getattr(given, key):
            raise UserError(f"{key}: needs a value, as in run=vw-tiny-digits out=exported")
    return given


def source_of(given: Settings) -> Source:
    """The weights that ``run`` means; raises ``UserError`` where there are none."""
    folder = Path(given.run)
    if (folder / "config.json").is_file():
        return Source(folder, given.run)
    run = run_at(folder.absolute()) if folder.is_dir() else Run(absolute(given.storage), given.run)
    newest = run.latest()
    if newest is None:
        raise UserError(
            f"run={given.run}: {run.path} has no finished checkpoint; train it first or set storage="
        )
    return Source(local_copy(newest.path / WEIGHTS), f"step {newest.step} of {run.name}")


def run_at(folder: Path) -> Run:
    """The run kept in a local folder."""
    return Run(str(folder.parent), folder.name)


def _size(folder: Path) -> str:
    files = [file for file in folder.iterdir() if file.is_file()]
    return f"{len(files)} files, {sum(file.stat().st_size for file in files) / 1e6:.1f} MB"


if __name__ == "__main__":
    main(sys.argv[1:])
