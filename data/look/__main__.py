"""Look at the data of a stage before training: counts, rejects, lengths, and samples as the model gets them.

    python -m data.look stage=finetune data=mine data.root=/data/mine
    python -m data.look stage=si out=si.html samples=20

Arguments are those of ``train/run.py``, and two more:

out      the page to write (default: <data>-<stage>.html)
samples  samples on the page, the first that a run trains on (default: 8)

The manifest that this builds is the one that training uses. Nothing is trained, and no weights are read.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "platform")]

from lladav.config.cli import main_arguments, one_line_errors  # noqa: E402 - the path comes first
from lladav.config.schema import Config  # noqa: E402
from lladav.errors import UserError  # noqa: E402

SAMPLES = 8


def main(arguments: Sequence[str]) -> None:
    """Print the overview and write the page; a user error is one line on stderr and exit code 2."""
    own = {key: value for key, _, value in (a.partition("=") for a in arguments) if key in ("out", "samples")}
    configs = main_arguments([a for a in arguments if a.partition("=")[0] not in own], __doc__ or "")
    with one_line_errors():
        samples = own.get("samples", str(SAMPLES))
        if not samples.isdigit():
            raise UserError(f"samples={samples}: must be a whole number")
        for config in configs:
            out = own.get("out") or f"{config.data.name}-{config.stage.name}.html"
            look(config, Path(out), int(samples))


def look(config: Config, out: Path, samples: int) -> None:
    """Print the overview of a stage's data and write the page with some samples."""
    from data.look.overview import overview
    from data.look.page import page
    from data.manifest.manifest import open_manifest

    # Rejects above the budget are what the user wants to see here.
    tolerant = replace(config, data=replace(config.data, bad_sample_budget=1.0))
    manifest = open_manifest(tolerant, report=print)
    found = overview(config, manifest)
    print("\n".join(found.lines()))
    out.write_text(page(config, manifest, found, samples), encoding="utf-8")
    print(f"page: {out}")


if __name__ == "__main__":
    main(sys.argv[1:])
