"""Answer the rows of a file with the model, without a server.

    python serve/batch.py input=questions.parquet output=answers model=FOLDER
    python serve/batch.py input=photos output=answers model=FOLDER prompt="What is in the picture?"
    ray job submit -- python serve/batch.py input=s3://BUCKET/in.jsonl output=s3://BUCKET/out model=FOLDER

Re-run the same command to resume: rows that are written are not answered again. ``config`` names a file of
``conf/serve``; all settings of the server apply, so a row gets the answer of the same request over HTTP.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[:1] = [str(ROOT), str(ROOT / "platform")]

from rich.console import Console  # noqa: E402 - the path comes first

from lladav.config.cli import HELP_FLAGS, key_values, one_line_errors  # noqa: E402
from serve.offline.settings import BatchSettings, load_batch  # noqa: E402
from serve.settings_help import settings_help  # noqa: E402


def main(arguments: Sequence[str]) -> None:
    """Run a batch; a user error is one line on stderr and exit code 2."""
    with one_line_errors():
        values = key_values([argument for argument in arguments if argument not in HELP_FLAGS])
        if HELP_FLAGS & set(arguments):
            print(f"{__doc__}\n{settings_help(values, BatchSettings)}")
            return
        settings = load_batch(values)
        from serve.offline.running import run_batch  # imports ray and torch: after the settings are read

        summary = run_batch(settings, Console())
    print(summary.line)


if __name__ == "__main__":
    main(sys.argv[1:])
