"""Ids of the Hugging Face hub name weights and tokenizers in its local cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from lladav.checkpoint import check_model, convert, export, model_config_of, weights_digest
from lladav.errors import UserError
from lladav.inputs.chat import ChatTokenizer
from lladav.storage import absolute_model, is_hub_id, model_location
from lladav.storage.local_cache import local_model
from tests.apart import apart
from tests.conftest import Golden
from tests.hub import cache_model
from tests.lladav.build import tiny_config, tiny_model

ID = "GSAI-ML/LLaDA-V"


@pytest.mark.parametrize("text", ["GSAI-ML/LLaDA-V", "google/siglip2-so400m-patch14-384"])
def test_an_id_has_an_owner_and_a_name(text: str) -> None:
    assert is_hub_id(text)
    assert absolute_model(text) == text


@pytest.mark.parametrize(
    "text",
    ["weights", "./models/tiny", "/models/tiny", "s3://bucket/weights", ".cache/towers", "a/b/c", "../b"],
)
def test_other_texts_are_paths_and_uris(text: str) -> None:
    assert not is_hub_id(text)
    assert absolute_model(text) != f"{text}!"


def test_a_folder_with_the_form_of_an_id_is_a_folder() -> None:
    assert not is_hub_id("conf/stage")
    assert absolute_model("conf/stage") == str(Path("conf/stage").absolute())


def snapshot_of(text: str) -> str:
    return str(model_location(text))


def error_of(text: str) -> str:
    with pytest.raises(UserError) as raised:
        model_location(text)
    return str(raised.value)


def test_an_id_names_the_snapshot_in_the_cache(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    snapshot = cache_model(tmp_path, ID, tmp_path / "weights")
    assert apart(snapshot_of, ID, HF_HOME=str(tmp_path)) == str(snapshot)


@pytest.mark.parametrize("hub_id", [ID, "runs/no--such.git"])
def test_an_id_that_is_not_cached_says_what_to_download(tmp_path: Path, hub_id: str) -> None:
    error = apart(error_of, hub_id, HF_HOME=str(tmp_path))
    assert error.startswith(f"{hub_id}: no such folder here")
    assert f"{tmp_path}/hub; run: hf download {hub_id}, or copy it to a folder" in error
    assert "\n" not in error


def read_by_id(out: Path) -> tuple[str, str, int | None]:
    """What every reader of a checkpoint needs, by its id."""
    check_model(ID)
    convert(ID, out)
    config = model_config_of(ID)
    return weights_digest(ID), str(local_model(ID)), ChatTokenizer.load(config.tokenizer).ids.mask


def test_checkpoints_are_read_by_their_id(golden: Golden, tmp_path: Path) -> None:
    tokenizer, weights = golden.folder / "tokenizer", tmp_path / "weights"
    config = tiny_config()
    config.tokens = ChatTokenizer.load(tokenizer).ids
    export(tiny_model(), config, weights, tokenizer=tokenizer)
    snapshot = cache_model(tmp_path, ID, weights)
    read = apart(read_by_id, tmp_path / "out", HF_HOME=str(tmp_path))
    assert read == (weights_digest(weights), str(snapshot), config.tokens.mask)
    assert weights_digest(tmp_path / "out") == weights_digest(weights)
