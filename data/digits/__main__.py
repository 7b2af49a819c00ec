"""``python -m data.digits --out FOLDER`` writes the built-in data set."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "platform")]

from data.digits.preparation import SEED, prepare  # noqa: E402
from lladav.errors import UserError  # noqa: E402


def main(arguments: Sequence[str]) -> int:
    """Write the data set and print its size; returns exit code 2 and prints one line if that fails."""
    parser = argparse.ArgumentParser(prog="python -m data.digits", description="Write the built-in data set.")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder to write; kept if it is complete already"
    )
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args(arguments)
    try:
        totals = prepare(options.out, options.seed)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(
        f"{options.out}: " + ", ".join(f"{total} {name} records" for name, total in totals.items() if total)
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
