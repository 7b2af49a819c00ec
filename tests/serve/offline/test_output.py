"""Part files: each row is written once, and a run that is killed at any moment can resume."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lladav.errors import UserError
from serve.offline.output import OutputFolder, RowCounts, ranges


def write(text: str) -> Callable[[Path], None]:
    def written(file: Path) -> None:
        file.write_text(text)

    return written


def folder_with_a_part(path: Path) -> OutputFolder:
    folder = OutputFolder(str(path))
    with folder.claimed():
        folder.bind({"seed": 1})
        folder.committed(10)
        folder.commit([4, 2, 3, 7], RowCounts(4, 1, 20), "jsonl", write("lines"))
    return folder


@given(st.sets(st.integers(0, 40)))
def test_ranges_hold_the_same_rows(rows: set[int]) -> None:
    found = ranges(list(rows))
    assert [row for first, last in found for row in range(first, last + 1)] == sorted(rows)
    assert all(before[1] + 1 < after[0] for before, after in pairwise(found))


def test_a_later_run_finds_the_rows_of_all_parts(tmp_path: Path) -> None:
    folder_with_a_part(tmp_path)
    later = OutputFolder(str(tmp_path))
    done, counts = later.committed(10)
    assert done.nonzero()[0].tolist() == [2, 3, 4, 7]
    assert counts == RowCounts(4, 1, 20)
    later.commit([0], RowCounts(1, 0, 5), "jsonl", write("line"))
    assert [file.name for file in sorted(tmp_path.glob("part*"))] == ["part-00000.jsonl", "part-00001.jsonl"]


def test_rows_count_only_with_their_part(tmp_path: Path) -> None:
    folder_with_a_part(tmp_path)

    def killed(_: Path) -> None:
        raise KeyboardInterrupt

    folder = OutputFolder(str(tmp_path))
    before, _ = folder.committed(10)
    with pytest.raises(KeyboardInterrupt):
        folder.commit([9], RowCounts(1, 0, 0), "jsonl", killed)
    (tmp_path / "part-00001.jsonl.77.part").write_text("half")
    later = OutputFolder(str(tmp_path))
    done, _ = later.committed(10)
    assert (done == before).all()
    assert not list(tmp_path.glob("*.part"))
    later.commit([8], RowCounts(1, 0, 0), "jsonl", write("line"))
    assert later.committed(10)[0].nonzero()[0].tolist() == [2, 3, 4, 7, 8]


def test_another_setting_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = folder_with_a_part(tmp_path)
    folder.bind({"seed": 1})
    with pytest.raises(UserError, match="was begun with seed=1, now 2; take the old value or another output"):
        folder.bind({"seed": 2})
    with pytest.raises(UserError, match=r"was begun with temperature=null, now 0\.5"):
        folder.bind({"seed": 1, "temperature": 0.5})


def test_a_folder_with_other_parts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "part-00000.parquet").touch()
    folder = OutputFolder(str(tmp_path))
    with folder.claimed(), pytest.raises(UserError, match=r"has part-00000.parquet of something else"):
        folder.bind({})


def test_one_run_writes_at_a_time(tmp_path: Path) -> None:
    first, second = OutputFolder(str(tmp_path)), OutputFolder(str(tmp_path))
    with first.claimed(), pytest.raises(UserError, match="another run writes here"), second.claimed():
        pass
    with OutputFolder(str(tmp_path)).claimed():
        pass


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"), OutputFolder(str(tmp_path / "file")).claimed():
        pass


def test_readers_of_parquet_folders_see_only_parts(tmp_path: Path) -> None:
    folder = OutputFolder(str(tmp_path))
    with folder.claimed():
        folder.bind({})
        folder.commit(
            [0], RowCounts(1, 0, 0), "parquet", lambda file: pq.write_table(pa.table({"x": [1]}), file)
        )
    assert pq.read_table(tmp_path).to_pylist() == [{"x": 1}]


def test_a_bucket_holds_the_same(bucket: str) -> None:
    folder = OutputFolder(f"{bucket}/answers")
    with folder.claimed():
        folder.bind({"seed": 1})
        assert not folder.committed(3)[0].any()
        folder.commit([1], RowCounts(1, 1, 2), "jsonl", write("line\n"))
    later = OutputFolder(f"{bucket}/answers")
    done, counts = later.committed(3)
    assert (done.tolist(), counts) == ([False, True, False], RowCounts(1, 1, 2))
    with pytest.raises(UserError, match="seed=1, now 2"):
        later.bind({"seed": 2})


def test_records_are_plain_json(tmp_path: Path) -> None:
    folder_with_a_part(tmp_path)
    record = json.loads((tmp_path / "_batch" / "part-00000.json").read_text())
    assert record == {"rows": [[2, 4], [7, 7]], "failed": 1, "tokens": 20}
