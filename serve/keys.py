"""Make an API key: ``python -m serve.keys NAME``."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "platform")]

from serve.auth.keys import main

if __name__ == "__main__":
    main(sys.argv[1:])
