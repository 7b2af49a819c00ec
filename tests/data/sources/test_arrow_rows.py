"""Arrow files of Hugging Face datasets: rows by record batch, whatever a single value holds."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from data.manifest.manifest import open_manifest
from data.sources.arrow_rows import batch_share, read_batch_rows, record_batches
from lladav.config.schema import SourceConfig, SourceFormat
from lladav.errors import UserError
from tests.data import build

RECORDS = [build.record(f"r{n}", f"{n}.png", answer=f"Answer {n}.") for n in range(5)]
IMAGES = {f"{n}.png": build.image_file(20 + n, 20, seed=n) for n in range(5)}


def written(root: Path) -> str:
    (file,) = (root / build.write_arrow(root, RECORDS, IMAGES)).glob("*.arrow")
    return str(file)


def test_rows_are_read_by_batch_and_row(tmp_path: Path) -> None:
    path = written(tmp_path)
    positions = [list(batch) for batch in record_batches(path)]
    assert positions == [[(0, 0), (0, 1)], [(1, 0), (1, 1)], [(2, 0)]]
    assert [row["id"] for row in read_batch_rows(path, [1, 1], [0, 1])] == ["r2", "r3"]
    assert [batch_share(path, *each) for batch in positions for each in batch] == [0.2, 0.4, 0.6, 0.8, 1.0]


def test_files_in_the_file_format_are_read_too(tmp_path: Path) -> None:
    table = pa.ipc.open_stream(written(tmp_path)).read_all()
    with pa.OSFile(str(tmp_path / "x.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    path = str(tmp_path / "x.arrow")
    positions = [position for batch in record_batches(path) for position in batch]
    rows = [row for batch, row in positions for row in read_batch_rows(path, [batch], [row])]
    assert [row["id"] for row in rows] == ["r0", "r1", "r2", "r3", "r4"]


def test_a_text_that_is_not_utf8_costs_its_own_row(tmp_path: Path, tokenizer: Path) -> None:
    path = Path(written(tmp_path))
    content = path.read_bytes()
    assert content.count(b"Answer 3") == 1
    path.write_bytes(content.replace(b"Answer 3", b"\xffnswer 3"))
    source = SourceConfig(SourceFormat.arrow, "dataset")
    manifest = open_manifest(build.settings(tmp_path, tokenizer, {"s": source}))
    assert (len(manifest), manifest.summary.reasons) == (4, {"bad_record": 1})


def test_a_damaged_image_costs_its_own_row(tmp_path: Path, tokenizer: Path) -> None:
    build.write_arrow(tmp_path, RECORDS, {**IMAGES, "2.png": b"no image"})
    source = SourceConfig(SourceFormat.arrow, "dataset/data-*.arrow")
    manifest = open_manifest(build.settings(tmp_path, tokenizer, {"s": source}))
    assert (len(manifest), manifest.summary.reasons) == (4, {"bad_image": 1})


@pytest.mark.parametrize("kept", [0, 100, -50])
def test_a_file_that_is_cut_short_is_refused(tmp_path: Path, tokenizer: Path, kept: int) -> None:
    path = Path(written(tmp_path))
    path.write_bytes(path.read_bytes()[:kept])
    source = SourceConfig(SourceFormat.arrow, "dataset")
    with pytest.raises(UserError, match=f"^{path}: not a whole Arrow file"):
        open_manifest(build.settings(tmp_path, tokenizer, {"s": source}))
