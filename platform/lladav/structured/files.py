"""Structures that a command reads from a file, and their errors in the words of the command line."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from lladav.errors import UserError
from lladav.structured.compiling import StructureKind, StructureSpec
from lladav.structured.errors import SchemaError


def read_schema_file(file: Path, all_properties: bool = False) -> StructureSpec:
    """The structure that a file with a JSON schema describes; raises ``UserError`` if it holds no JSON.

    With ``all_properties`` the answer has all properties that the schema lists.
    """
    try:
        source = file.read_text(encoding="utf-8")
        json.loads(source)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); name a JSON schema") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not JSON ({error}); write a JSON schema into it") from None
    return StructureSpec(StructureKind.json_schema, source, all_properties)


@contextlib.contextmanager
def schema_errors(where: object) -> Iterator[None]:
    """Begin the message of a ``SchemaError`` with ``where``: a file or a flag."""
    try:
        yield
    except SchemaError as error:
        place = error.path if error.path != "#" else ""
        raise UserError(f"{where}{place} {error.reason}") from None
