"""Train one stage of the curriculum, or with stage=all every stage in order.

    python train/run.py stage=vw model=tiny data=digits train.max_steps=50
    ray job submit -- python train/run.py stage=all
    python train/run.py stage=si data.fraction=0.1 print=true

Re-run the same command to resume from the last checkpoint. Finished stages are skipped.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[:1] = [str(ROOT), str(ROOT / "platform")]

from lladav.config.cli import main_arguments, one_line_errors  # noqa: E402 - the path comes first
from lladav.config.schema import Config  # noqa: E402
from lladav.errors import UserError  # noqa: E402


def main(arguments: Sequence[str]) -> None:
    """Run the stages that the arguments ask for; a user error is one line on stderr and exit code 2."""
    configs = main_arguments(arguments, __doc__ or "", notes)
    from train.trainer.stage import run_stages  # imports ray and torch: after the settings are checked

    with one_line_errors():
        run_stages(configs)


def notes(config: Config) -> Iterator[str]:
    """The lines that ``print=true`` shows in front of the settings: the sources, and the memory of a GPU."""
    yield from source_notes(config)
    if config.cluster.gpus_per_worker:
        from lladav.costs.memory import gpu_memory  # imports torch, which takes seconds

        yield str(gpu_memory(config))


def source_notes(config: Config) -> Iterator[str]:
    """A line for each source of the stage: samples of an epoch, if an earlier run has counted them."""
    from data.manifest.manifest import existing_manifest
    from data.pipeline.contents import epoch_contents

    try:
        yield from epoch_contents(config, existing_manifest(config))
    except UserError as error:
        yield str(error)


if __name__ == "__main__":
    main(sys.argv[1:])
