"""What processes of ranks begin with: a server imports it once, and forks them.

Imported by that server alone, see ``ranks``.
"""

import os

os.environ["DS_ACCELERATOR"] = "cpu"

import deepspeed
import deepspeed.runtime.zero.muon.original_muon  # noqa: F401 - with torch's compiler, which takes seconds

import train.trainer.loop  # noqa: F401
