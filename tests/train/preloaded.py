# ruff: noqa: E402, F401
"""Modules that the processes of ranks need: a fork server imports them once and forks the processes.

Only that server imports this module, see ``ranks``.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Before Python 3.13 the fork server does not get the path of its parent, and it hides the ImportError.
sys.path[:0] = [str(ROOT), str(ROOT / "platform")]
os.environ["DS_ACCELERATOR"] = "cpu"

import pytest
import torch._dynamo  # torch's optimizers import it, which takes seconds

import tests.lladav.build
import tests.train.settings
import train.trainer.loop
