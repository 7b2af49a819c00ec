"""Check Serve config files: ``python -m serve.config_check FILE...``."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "platform")]

from serve.ops.config_check import main

if __name__ == "__main__":
    main(sys.argv[1:])
