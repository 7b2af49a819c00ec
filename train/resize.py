"""Continuing with another number of ranks: DeepSpeed's universal checkpoint.

A sharded state fits only the number of ranks that wrote it. Its universal form holds each parameter's master
weights and moments whole, one file each, and any number of ranks can load it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
from pathlib import Path

from deepspeed.checkpoint import ds_to_universal

STATE_TAG = "state"


def to_universal(engine_folder: Path, out: Path) -> None:
    """Convert the state in ``engine_folder`` to its universal form in ``out``; one process calls it."""
    arguments = argparse.Namespace(
        input_folder=str(engine_folder / STATE_TAG),
        output_folder=str(out / STATE_TAG),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=False,
    )
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        ds_to_universal.main(arguments)
