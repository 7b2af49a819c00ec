"""Rows of Arrow tables as Python values.

A value that Arrow cannot convert becomes ``Unreadable``, so that it costs its own row and no other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from data.records.parsing import COLUMNS
from data.records.record import Unreadable

CONVERSION_ERRORS = (
    ValueError,
    TypeError,
    ArithmeticError,
    NotImplementedError,
    ImportError,
    pa.ArrowException,
)
"""What Arrow raises for a value that Python cannot represent, such as text that is not UTF-8 or the year
300000."""


def record_columns(schema: pa.Schema) -> list[str]:
    """The columns of a file that a record can have."""
    return [name for name in COLUMNS if name in schema.names]


def rows_of(table: pa.Table | pa.RecordBatch) -> list[dict[str, Any]]:
    """The rows of a table by column."""
    try:
        return table.to_pylist()
    except CONVERSION_ERRORS:
        return [_row(table.slice(number, 1)) for number in range(table.num_rows)]


def unreadable_rows(rows: Sequence[int], error: Exception) -> list[dict[str, Any]]:
    """Rows of a part of a file that cannot be read."""
    return [dict.fromkeys(COLUMNS, _unreadable(error)) for _ in rows]


def _row(table: pa.Table | pa.RecordBatch) -> dict[str, Any]:
    return {name: _value(table[name]) for name in table.schema.names}


def _value(column: pa.ChunkedArray | pa.Array) -> Any:
    try:
        return column[0].as_py()
    except CONVERSION_ERRORS as error:
        return _unreadable(error)


def _unreadable(error: Exception) -> Unreadable:
    return Unreadable(f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
