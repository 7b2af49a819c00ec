"""Every form of the input: its rows in order with their numbers, whatever its shards, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lladav.errors import UserError
from lladav.storage import location
from serve.errors import ApiError
from serve.offline.inputs import json_lines, shards
from serve.offline.inputs.forms import FORMS, BatchInput, InputForm, open_input
from serve.offline.inputs.shards import shards_of_parts

Rows = Sequence[dict[str, Any]]


def write_json_lines(folder: Path, rows: Rows) -> Path:
    file = folder / "rows.jsonl"
    file.write_text("\n\n".join(json.dumps(row) for row in rows))
    return file


def write_parquet(folder: Path, rows: Rows) -> Path:
    file = folder / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(list(rows)), file, row_group_size=3)
    return file


def write_dataset(folder: Path, rows: Rows) -> Path:
    """A data set as ``datasets.save_to_disk`` writes it: two streams of record batches, and their names."""
    table, names = pa.Table.from_pylist(list(rows)), []
    for number, start in enumerate((0, 5)):
        names.append(f"data-0000{number}-of-00002.arrow")
        part = table.slice(start, 5 if number == 0 else None)
        with pa.ipc.new_stream(folder / names[-1], part.schema) as stream:
            for batch in part.to_batches(max_chunksize=2):
                stream.write_batch(batch)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    return folder


def write_folder(folder: Path, rows: Rows) -> Path:
    """Two parquet files."""
    for number, part in enumerate((rows[:4], rows[4:])):
        pq.write_table(pa.Table.from_pylist(list(part)), folder / f"{number}.parquet")
    return folder


def read(source: BatchInput) -> list[tuple[int, Any]]:
    """The rows with their numbers."""
    parts = [zip(each.numbers, FORMS[source.form].read(each), strict=True) for each in source.shards]
    return [row for part in parts for row in part]


@pytest.mark.parametrize("write", [write_json_lines, write_parquet, write_dataset, write_folder])
@pytest.mark.parametrize("shard_rows", [1, 4, 1000])
def test_rows_come_in_order_with_their_numbers(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write: Callable[[Path, Rows], Path],
    shard_rows: int,
) -> None:
    monkeypatch.setattr(shards, "SHARD_ROWS", shard_rows)
    monkeypatch.setattr(json_lines, "SHARD_ROWS", shard_rows)
    rows = [{"id": f"é{number}", "prompt": "x" * number, "max_tokens": number + 1} for number in range(11)]
    source = open_input(str(write(tmp_path, rows)))
    assert read(source) == list(enumerate(rows))
    assert source.rows == len(rows)
    assert (len(source.shards) > 1) == (
        shard_rows < 11 or (write is not write_json_lines and len(source.files) > 1)
    )


def test_images_are_rows_with_their_paths(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("b/2.PNG", "1.jpg", "b/1.webp"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("none")
    names = ["1.jpg", "b/1.webp", "b/2.PNG"]
    source = open_input(str(tmp_path))
    assert source.form is InputForm.images
    assert read(source) == list(enumerate({"id": name, "image": name} for name in names))


def test_a_table_has_only_the_values_that_are_set(tmp_path: Path) -> None:
    rows = [
        {"id": 1, "stop": None, "image": {"bytes": b"x", "path": None}},
        {"id": 2, "stop": ["a"], "image": None},
    ]
    source = open_input(str(write_parquet(tmp_path, rows)))
    assert [row for _, row in read(source)] == [{"id": 1, "image": {"bytes": b"x"}}, {"id": 2, "stop": ["a"]}]


def test_a_line_that_is_no_object_is_an_error_of_its_row(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'{"id": "a"}\n{"id": \n[1]\n\xff\n{"id": "b"}\r\n')
    rows = [row for _, row in read(open_input(str(file)))]
    assert [isinstance(row, ApiError) for row in rows] == [False, True, True, True, False]
    assert [row.code for row in rows if isinstance(row, ApiError)] == [
        "invalid_json",
        "invalid_row",
        "invalid_json",
    ]


@given(st.lists(st.integers(0, 9000)), st.integers(0, 5))
def test_shards_have_all_rows_once(sizes: list[int], first: int) -> None:
    found = list(shards_of_parts(location("x"), first, sizes))
    assert [row for each in found for row in each.numbers] == list(range(first, first + sum(sizes)))
    for each in found:
        assert sum(sizes[each.start : each.stop]) == each.rows


def test_what_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "splits" / "train").mkdir(parents=True)
    (tmp_path / "splits" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "rows.csv").touch()
    for name, expected in {
        "none.jsonl": "no such file or folder",
        "rows.csv": "unknown form; use .jsonl",
        "splits": "has several splits (train); name one",
        "bad.parquet": "not a whole parquet file",
        "empty.jsonl": "has no rows",
    }.items():
        with pytest.raises(UserError, match=expected.replace("(", r"\(").replace(")", r"\)")):
            assert open_input(str(tmp_path / name)).rows
