"""Flags of a command that describe the structure of its answers."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from lladav.structured.compiling import StructureKind, StructureSpec
from lladav.structured.files import read_schema_file


def add_structure_flags(parser: argparse.ArgumentParser) -> None:
    """Add ``--schema``, ``--choice``, ``--regex`` and ``--all-properties`` to a parser."""
    one_of = parser.add_mutually_exclusive_group()
    text = "file with a JSON schema; the answer is JSON that fits it"
    one_of.add_argument("--schema", type=Path, metavar="FILE", help=text)
    text = "a text that the answer may be; repeatable, and the answer is one of them"
    one_of.add_argument("--choice", action="append", metavar="TEXT", help=text)
    one_of.add_argument("--regex", help="regular expression that the whole answer matches")
    text = "write all properties of the schema; otherwise the model chooses among the optional ones"
    parser.add_argument("--all-properties", action="store_true", help=text)


def structure_of(arguments: argparse.Namespace) -> StructureSpec | None:
    """The structure that the flags describe; raises ``UserError`` for a file that holds no JSON."""
    if arguments.schema is not None:
        return read_schema_file(arguments.schema, arguments.all_properties)
    if arguments.choice is not None:
        return StructureSpec(StructureKind.choice, json.dumps(arguments.choice))
    return None if arguments.regex is None else StructureSpec(StructureKind.regex, arguments.regex)


def structure_flag(arguments: argparse.Namespace) -> str:
    """The flag that describes the structure, as errors name it."""
    if arguments.schema is not None:
        return f"--schema {arguments.schema}"
    return "--choice" if arguments.choice is not None else "--regex"
