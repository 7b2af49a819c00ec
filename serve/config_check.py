"""Check Serve config files: ``python -m serve.config_check FILE...``."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "platform")]

from serve.ops.config_check import main  # noqa: E402 - the path comes first

if __name__ == "__main__":
    main(sys.argv[1:])
