"""What an output folder is bound to, and what is refused before any row is read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

from lladav.errors import UserError
from serve.offline.identity import CONTENT, WEIGHTS, check, identity, kept_columns, output_format
from serve.offline.inputs.forms import open_input
from serve.offline.settings import OutputFormat
from tests.serve.offline.settings import batch_settings


def lines(file: Path, *rows: Any) -> str:
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(file)


Bound = Callable[..., dict[str, Any]]


@pytest.fixture
def bound(tmp_path: Path, model_folder: Path) -> Bound:
    """The identity of a batch of one row, with some settings."""
    file = lines(tmp_path / "in.jsonl", {"prompt": "x"})

    def of(**given: Any) -> dict[str, Any]:
        settings = batch_settings(input=file, **{"model": str(model_folder), **given})
        return identity(settings, open_input(file), OutputFormat.jsonl)

    return of


def changed(bound: Bound, **given: Any) -> set[str]:
    """The keys that some settings change."""
    plain, other = bound(), bound(**given)
    return {key for key in plain | other if plain.get(key) != other.get(key)}


def test_only_settings_that_change_answers_are_bound(bound: Bound) -> None:
    assert changed(bound, params__temperature=0.5) == {"params.temperature"}
    assert changed(bound, decoding__block_length=4) == {"decoding.block_length"}
    assert changed(bound, engine__dtype="float32") == {"engine.dtype"}
    free = {"engine.max_rows": 3, "engine.max_replicas": 2, "part_rows": 5, "output": "x", "media.workers": 1}
    assert changed(bound, **free) == set()


def test_the_weights_are_bound_wherever_they_are(bound: Bound, model_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(model_folder, tmp_path / "copy")
    assert changed(bound, model=str(copy)) == set()
    weights = load_file(copy / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, copy / "model.safetensors")
    assert changed(bound, model=str(copy)) == {WEIGHTS}


def test_the_weights_of_adapters_are_bound_wherever_they_are(
    bound: Bound, adapter_folders: dict[str, str], tmp_path: Path
) -> None:
    copy = shutil.copytree(adapter_folders["words"], tmp_path / "copy")
    original, moved = (bound(adapters={"a": str(each)}) for each in (adapter_folders["words"], copy))
    assert original == moved
    assert changed(bound, adapters=adapter_folders) == {"adapters.words", "adapters.all-parts"}


def test_the_content_of_the_input_is_bound(bound: Bound, tmp_path: Path) -> None:
    before = bound()
    lines(tmp_path / "in.jsonl", {"prompt": "x"}, {"prompt": "y"})
    after = bound()
    assert {key for key in before if before[key] != after[key]} == {CONTENT}


def test_the_output_has_the_format_of_the_input(tmp_path: Path) -> None:
    own = open_input(lines(tmp_path / "own.jsonl", {"prompt": "x"}))
    openai = open_input(lines(tmp_path / "openai.jsonl", {"custom_id": "a", "body": {}}))
    pq.write_table(pa.table({"prompt": ["x"]}), tmp_path / "in.parquet")
    table = open_input(str(tmp_path / "in.parquet"))
    formats = [output_format(batch_settings(), source) for source in (own, openai, table)]
    assert formats == [OutputFormat.jsonl, OutputFormat.openai, OutputFormat.parquet]
    assert output_format(batch_settings(format="openai"), table) is OutputFormat.openai


def test_kept_columns_have_the_types_of_a_table(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["x"], "label": [1]}), tmp_path / "in.parquet")
    table = open_input(str(tmp_path / "in.parquet"))
    own = open_input(lines(tmp_path / "own.jsonl", {"prompt": "x", "label": 1}))
    settings = batch_settings(keep=["label"])
    assert kept_columns(settings, table) == pa.schema([("label", pa.int64())])
    assert kept_columns(settings, own) == pa.schema([("label", pa.string())])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"params__temprature": 1}, "params.temprature: unknown field; did you mean temperature?"),
        ({"params__temperature": -1}, "params.temperature: Input should be greater than or equal to 0"),
        ({"columns__promt": "question"}, "columns.promt: no field of a request; did you mean prompt?"),
        ({"columns__prompt": "text"}, "text: no column of the input; it has question, label"),
        ({"columns__prompt": "question", "keep": ["lable"]}, "lable: no column of the input"),
        ({}, "question,label: no field of a request; set drop=[question,label]"),
    ],
)
def test_settings_that_every_row_would_fail_with_are_refused(
    tmp_path: Path, given: dict[str, Any], message: str
) -> None:
    pq.write_table(pa.table({"question": ["x"], "label": [1]}), tmp_path / "in.parquet")
    with pytest.raises(UserError) as error:
        check(batch_settings(**given), open_input(str(tmp_path / "in.parquet")))
    assert message in str(error.value)
    check(
        batch_settings(columns__prompt="question", drop=["label"]), open_input(str(tmp_path / "in.parquet"))
    )


def test_images_need_a_question(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(UserError, match="images have no questions; set one"):
        check(batch_settings(), open_input(str(tmp_path)))
    check(batch_settings(prompt="What?"), open_input(str(tmp_path)))
