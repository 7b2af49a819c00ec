"""What processes of ranks begin with: a server imports it once, and forks them.

Imported by that server alone, see ``ranks``.
"""

import os

os.environ["DS_ACCELERATOR"] = "cpu"

import deepspeed  # noqa: F401

import train.loop  # noqa: F401
