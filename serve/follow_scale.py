"""Follow an external autoscaler: ``python -m serve.follow_scale --help``."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "platform")]

from serve.ops.follow_scale import main

if __name__ == "__main__":
    main(sys.argv[1:])
