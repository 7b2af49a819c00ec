"""Which form an input has, and its shards.

To add a form, write its functions, name them in ``FORMS``, and let ``_form_and_files`` recognize it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple

import pyarrow as pa
from upath import UPath

from lladav.errors import UserError
from lladav.storage import (
    as_user_error,
    exists,
    files_in,
    is_folder,
    location,
    read_text,
    subfolders,
    version,
)
from serve.offline.inputs import image_folder, json_lines, tables
from serve.offline.inputs.shards import CHECK, InputShard, ReadRow


class InputForm(StrEnum):
    """Forms of the input."""

    json_lines = "json_lines"
    parquet = "parquet"
    arrow = "arrow"
    images = "images"


class FormFunctions(NamedTuple):
    """How files of a form are read."""

    shards: Callable[[UPath, int], Iterator[InputShard]]
    """The shards of a file whose first row has a number."""
    read: Callable[[InputShard], Iterator[ReadRow]]
    schema: Callable[[UPath], pa.Schema] | None = None
    """The columns of a file, for tables."""


FORMS = {
    InputForm.json_lines: FormFunctions(json_lines.shards, json_lines.read),
    InputForm.parquet: FormFunctions(tables.parquet_shards, tables.read_parquet, tables.parquet_schema),
    InputForm.arrow: FormFunctions(tables.arrow_shards, tables.read_arrow, tables.arrow_schema),
    InputForm.images: FormFunctions(image_folder.shards, image_folder.read),
}
SUFFIXES = {
    ".jsonl": InputForm.json_lines,
    ".ndjson": InputForm.json_lines,
    ".parquet": InputForm.parquet,
    ".arrow": InputForm.arrow,
}
DATASET_STATE, DATASET_SPLITS = "state.json", "dataset_dict.json"
"""Files of ``datasets``' ``save_to_disk``: of a data set, and of one with several splits."""


@dataclass(frozen=True)
class BatchInput:
    """An input: its form and its files."""

    path: UPath
    form: InputForm
    files: Sequence[UPath]

    @cached_property
    def shards(self) -> list[InputShard]:
        """All shards. Reads the files as far as counting their rows needs it; raises ``UserError``."""
        found: list[InputShard] = []
        for file in self.files:
            found += FORMS[self.form].shards(file, found[-1].numbers.stop if found else 0)
        return found

    @cached_property
    def rows(self) -> int:
        """Number of all rows; raises ``UserError`` if there are none."""
        if not self.shards:
            raise UserError(f"{self.path}: has no rows; check the input")
        return self.shards[-1].numbers.stop

    @cached_property
    def schema(self) -> pa.Schema | None:
        """The columns of a table, which are those of its first file; None for other forms."""
        schema_of = FORMS[self.form].schema
        return schema_of(self.files[0]) if schema_of else None

    @property
    def root(self) -> UPath:
        """The folder of the input, where relative paths of images start."""
        return self.path if is_folder(self.path) else self.path.parent

    def stamps(self) -> list[list[str | int]]:
        """Path, bytes and version of each file: they change with its content."""
        with as_user_error(f"{self.path}: cannot be read", CHECK):
            return [[str(file), *version(file)] for file in self.files]


def open_input(text: str) -> BatchInput:
    """The input that a path or a URI names; raises ``UserError`` if its form is not known."""
    path = location(text)
    with as_user_error(f"input={text}: cannot be read", CHECK):
        if is_folder(path):
            return BatchInput(path, *_folder(path))
        if not exists(path):
            raise UserError(f"input={text}: no such file or folder; check the path")
    if (form := SUFFIXES.get(path.suffix.lower())) is None:
        raise UserError(f"input={text}: unknown form; use {', '.join(SUFFIXES)} or a folder")
    return BatchInput(path, form, [path])


def _folder(folder: UPath) -> tuple[InputForm, list[UPath]]:
    names = files_in(folder)
    if DATASET_SPLITS in names:
        splits = ", ".join(subfolders(folder))
        raise UserError(
            f"input={folder}: has several splits ({splits}); name one, as in input={folder}/SPLIT"
        )
    if DATASET_STATE in names:
        listed = json.loads(read_text(folder / DATASET_STATE))
        return InputForm.arrow, [folder / each["filename"] for each in listed["_data_files"]]
    for form in (InputForm.parquet, InputForm.json_lines):
        if chosen := [name for name in names if SUFFIXES.get(UPath(name).suffix.lower()) is form]:
            return form, [folder / name for name in chosen]
    return InputForm.images, [folder]
