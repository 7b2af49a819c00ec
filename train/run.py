"""Train one stage of the curriculum, or with stage=all every stage in order.

    python train/run.py stage=vw model=tiny data=digits train.max_steps=50
    ray job submit -- python train/run.py stage=all

Re-run the same command to resume from the last checkpoint. Finished stages are skipped.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[:1] = [str(ROOT), str(ROOT / "platform")]

from lladav.config.cli import main_arguments, one_line_errors  # noqa: E402 - the path comes first


def main(arguments: Sequence[str]) -> None:
    """Run the stages that the arguments ask for; a user error is one line on stderr and exit code 2."""
    configs = main_arguments(arguments, __doc__ or "")
    from train.trainer.stage import run_stages  # imports ray and torch: after the settings are checked

    with one_line_errors():
        run_stages(configs)


if __name__ == "__main__":
    main(sys.argv[1:])
