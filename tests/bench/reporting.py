"""What every benchmark prints: a table for people, then one JSON line per result.

A result says what it was measured against, so that a line makes sense alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any


def report(name: str, value: float, unit: str, against: str, **details: Any) -> None:
    """Print one result as a JSON line; ``details`` are further keys, such as the two sides of a ratio."""
    result = {"name": name, "value": value, "unit": unit, "against": against, **details}
    print(json.dumps(result, ensure_ascii=False), flush=True)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under a header, columns aligned: the first to the left, the others to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        cells[0] = row[0].ljust(widths[0])
        print("  ".join(cells).rstrip(), flush=True)
