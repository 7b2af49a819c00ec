"""``lladav.generate`` and the command ``python -m lladav.generate``."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

import lladav
from lladav.checkpoint import export
from lladav.config.schema import ModelConfig, Pixels, TokenIds
from lladav.decoding.params import DecodingOptions
from lladav.errors import UserError
from lladav.generation import Answer, main, question, show, updates
from lladav.inputs.chat import ChatTokenizer
from lladav.inputs.samples import VisualKind
from lladav.model.llada_v import LLaDAV
from lladav.structured.compiling import StructureKind, StructureSpec
from tests.conftest import Golden
from tests.lladav.build import noise_image, tiny_ar_config, tiny_config, tiny_model

SETTINGS: dict[str, Any] = {"max_tokens": 8, "block_length": 4, "refresh_interval": 2}


@pytest.fixture(scope="module")
def tokenizer(golden: Golden) -> ChatTokenizer:
    return ChatTokenizer.load(golden.folder / "tokenizer")


@pytest.fixture(scope="module")
def model(tokenizer: ChatTokenizer) -> LLaDAV:
    """A model with the tokenizer's vocabulary."""
    config = tiny_config(vocab_size=tokenizer.vocab_size)
    config.tokens = TokenIds(**vars(tokenizer.ids))
    return tiny_model(config, std=0.3)


@pytest.fixture(scope="module")
def folder(model: LLaDAV, golden: Golden, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as a checkpoint beside its tokenizer."""
    out = tmp_path_factory.mktemp("model") / "out"
    export(model, model.config, out, tokenizer=golden.folder / "tokenizer")
    return out


def test_generate_answers_a_question_about_images(model: LLaDAV, tokenizer: ChatTokenizer) -> None:
    images = [noise_image(40, 30)]
    answer = lladav.generate(model, images, "What is this?", tokenizer=tokenizer, **SETTINGS)
    assert answer.text == tokenizer.decode(answer.decoded.tokens)
    assert answer.decoded.forwards >= 1
    again = lladav.generate(model, images, "What is this?", tokenizer=tokenizer, **SETTINGS)
    assert again == answer
    assert len(question(model.config, tokenizer, images * 2, "And these?").visuals) == 2


def test_invalid_settings_are_refused(model: LLaDAV, tokenizer: ChatTokenizer) -> None:
    with pytest.raises(UserError, match="block_length 3 does not divide"):
        lladav.generate(model, [], "x", tokenizer=tokenizer, max_tokens=8, block_length=3)


def test_a_stop_text_ends_the_answer_at_any_token_boundary(model: LLaDAV, tokenizer: ChatTokenizer) -> None:
    whole = lladav.generate(model, [], "x", tokenizer=tokenizer, **SETTINGS)
    stop = whole.text[1:3]
    answer = lladav.generate(model, [], "x", tokenizer=tokenizer, stop_texts=[stop], **SETTINGS)
    assert answer.text == whole.text[: whole.text.index(stop)]
    assert len(answer.decoded.tokens) < len(whole.decoded.tokens)


def test_eos_ends_an_answer_if_the_request_or_the_model_allows_it(
    model: LLaDAV, tokenizer: ChatTokenizer
) -> None:
    likely = {**SETTINGS, "logit_bias": {tokenizer.ids.eos: 100.0}, "tokenizer": tokenizer}
    written = lladav.generate(model, [], "x", **SETTINGS, tokenizer=tokenizer)
    assert lladav.generate(model, [], "x", **likely) == written
    ended = lladav.generate(model, [], "x", **likely, allow_eos=True).decoded
    assert (ended.tokens, ended.stopped) == ([], True)
    assert ended.forwards < written.decoded.forwards
    by_default = replace(model.config, allow_eos=True)
    assert generated_by(model, by_default, **likely).decoded == ended
    assert generated_by(model, by_default, **likely, allow_eos=False) == written


def generated_by(model: LLaDAV, config: ModelConfig, **settings: Any) -> Answer:
    """The answer of a model with another configuration."""
    other = copy(model)
    other.config = config
    return lladav.generate(other, [], "x", **settings)


SCHEMA = {
    "type": "object",
    "properties": {
        "digits": {"type": "array", "items": {"type": "integer"}, "maxItems": 2},
        "even": {"type": "boolean"},
    },
    "required": ["digits"],
    "additionalProperties": False,
    "x-order": 1,
}


def test_an_answer_has_the_structure_that_is_asked_for(model: LLaDAV, tokenizer: ChatTokenizer) -> None:
    ask = partial(lladav.generate, model, [], "x", tokenizer=tokenizer, max_tokens=64, temperature=1.0)
    answer = ask(structure=StructureSpec(StructureKind.json_schema, json.dumps(SCHEMA)))
    jsonschema.validate(json.loads(answer.text), SCHEMA)
    assert answer.decoded.stopped
    assert ask(structure=StructureSpec(StructureKind.choice, '["a", "bc"]')).text in ("a", "bc")
    with pytest.raises(UserError, match="stop texts and a structure exclude each other"):
        ask(structure=StructureSpec(StructureKind.regex, "a"), stop_texts=["a"])


def test_the_command_takes_a_schema_from_a_file(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    command = ["--model", str(folder), "--device=cpu", "--dtype=float32", "--max-tokens=64"]
    main([*command, "--schema", str(tmp_path / "schema.json"), "--all-properties", "x"])
    printed = capsys.readouterr()
    assert set(json.loads(printed.out)) == {"digits", "even"}
    assert "x-order" in printed.err
    main([*command, "--choice=one", "--choice=two", "x"])
    assert capsys.readouterr().out.strip() in ("one", "two")
    main([*command, "--regex=[ab]{2}", "x"])
    assert re.fullmatch("[ab]{2}", capsys.readouterr().out.strip())


@pytest.mark.parametrize(
    ("schema", "line"),
    [
        ("{", "schema.json: not JSON"),
        ('{"properties": {"a": {"maxLength": -1}}}', "schema.json#/properties/a"),
        ('{"type": "string", "minLength": 9999}', "tokens"),
    ],
)
def test_a_schema_that_cannot_be_guaranteed_is_reported_in_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], schema: str, line: str
) -> None:
    (tmp_path / "schema.json").write_text(schema)
    with pytest.raises(SystemExit) as ended:
        main(["--model", str(folder), "--schema", str(tmp_path / "schema.json"), "x"])
    printed = capsys.readouterr().err
    assert ended.value.code == 2
    assert line in printed
    assert printed.count("\n") == 1


def test_the_command_prints_the_answer_once(
    folder: Path,
    model: LLaDAV,
    tokenizer: ChatTokenizer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    image = noise_image(40, 30)
    image.save(tmp_path / "a b.png")
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items()]
    files = ["--model", str(folder), "--image", str(tmp_path / "a b.png"), "--device=cpu", "--dtype=float32"]
    main([*files, *flags, "What is this?"])
    expected = lladav.generate(model, [image], "What is this?", tokenizer=tokenizer, **SETTINGS)
    printed = capsys.readouterr()
    assert "".join(printed.out.split()) == "".join(expected.text.split())
    assert f"{expected.decoded.forwards} forwards" in printed.err


def test_a_model_that_predicts_the_next_token_answers(
    tokenizer: ChatTokenizer, golden: Golden, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_ar_config(vocab_size=tokenizer.vocab_size)
    config.tokens = TokenIds(**vars(tokenizer.ids))
    model, folder = tiny_model(config, std=0.3), tmp_path / "out"
    export(model, config, folder, tokenizer=golden.folder / "tokenizer")
    expected = lladav.generate(model, [], "x", tokenizer=tokenizer, max_tokens=8)
    assert expected.decoded.refreshes == 1
    arguments = ["--model", str(folder), "--device=cpu", "--dtype=float32", "--max-tokens=8"]
    main([*arguments, "x"])
    assert "".join(capsys.readouterr().out.split()) == "".join(expected.text.split())
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--refresh-interval=1", "x"])
    assert ended.value.code == 2
    refused = capsys.readouterr().err
    assert "refresh_interval: for masked diffusion only" in refused
    assert refused.count("\n") == 1
    for flag, name in (("--choice=a", "choice"), ("--allow-eos", "allow_eos")):
        with pytest.raises(SystemExit):
            main([*arguments, flag, "x"])
        assert f"{name}: for masked diffusion only" in capsys.readouterr().err


def write_clip(file: Path, frames: int) -> None:
    """An animation with different frames."""
    first, *rest = [noise_image(40, 30, seed) for seed in range(frames)]
    first.save(file, save_all=True, append_images=rest, duration=100)


def test_a_question_about_a_video_uses_frames_of_the_whole_clip(
    model: LLaDAV, tokenizer: ChatTokenizer, tmp_path: Path
) -> None:
    write_clip(tmp_path / "a.gif", 12)
    config = replace(model.config, images=replace(model.config.images, inference_frames=4))
    (four,) = question(config, tokenizer, [], "What happens?", tmp_path / "a.gif").visuals
    (every,) = question(config, tokenizer, [], "What happens?", tmp_path / "a.gif", 32).visuals
    assert four.shape.kind is every.shape.kind is VisualKind.video
    assert len(every.views) == 12
    assert np.array_equal(four.views, every.views[[0, 3, 7, 11]])
    answer = lladav.generate(
        model, [], "What happens?", video=tmp_path / "a.gif", frames=2, tokenizer=tokenizer, **SETTINGS
    )
    assert answer.decoded.forwards >= 1


def test_images_and_a_video_exclude_each_other(
    model: LLaDAV, tokenizer: ChatTokenizer, tmp_path: Path
) -> None:
    write_clip(tmp_path / "a.gif", 2)
    with pytest.raises(UserError, match="images and a video exclude each other"):
        question(model.config, tokenizer, [noise_image(40, 30)], "x", tmp_path / "a.gif")


@pytest.mark.parametrize("pixels", list(Pixels))
def test_images_are_converted_as_the_model_is_configured(
    pixels: Pixels, model: LLaDAV, tokenizer: ChatTokenizer
) -> None:
    config = replace(model.config, images=replace(model.config.images, pixels=pixels))
    (visual,) = question(config, tokenizer, [Image.new("RGBA", (40, 30))], "x").visuals
    assert visual.views[0].min() == (255 if pixels is Pixels.displayed else 0)


def test_the_command_answers_about_a_video(
    folder: Path,
    model: LLaDAV,
    tokenizer: ChatTokenizer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_clip(tmp_path / "a.gif", 5)
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items()]
    files = ["--model", str(folder), "--video", str(tmp_path / "a.gif"), "--device=cpu", "--dtype=float32"]
    main([*files, "--frames=3", *flags, "What happens?"])
    expected = lladav.generate(
        model, [], "What happens?", video=tmp_path / "a.gif", frames=3, tokenizer=tokenizer, **SETTINGS
    )
    assert "".join(capsys.readouterr().out.split()) == "".join(expected.text.split())


def test_a_damaged_video_is_reported_in_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(SystemExit):
        main(["--model", str(folder), "--video", str(tmp_path / "a.mp4"), "x"])
    printed = capsys.readouterr().err
    assert "a.mp4: not a video of a known format, or damaged" in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--model", "/nowhere", "x"], "error: /nowhere"),
        (["--model", "/nowhere", "--image", "/no.png", "x"], "error: --image /no.png: no such file"),
        (["--model", "/nowhere", "--video", "/no.mp4", "x"], "--video /no.mp4: no such file or folder"),
        (["--model", "/nowhere", "--frames", "0", "x"], "--frames 0: must be 1 or more"),
        (["--model", "/nowhere", "--steps", "4", "--factor", "1", "x"], "steps and factor exclude"),
        (["--model", "/nowhere", "--refresh-interval", "none", "x"], "error: /nowhere"),
        (["--model", "/nowhere", "--cache", "all", "x"], "--cache: 'all' is none of none, prefix, dual"),
        (["--model", "/nowhere", "--dtype", "foo", "x"], "--dtype: invalid choice: 'foo'"),
        (["--model", "/nowhere", "--dtype", "int8", "x"], "--dtype: invalid choice: 'int8'"),
        (
            ["--model", "/nowhere", "--device", "gpu", "x"],
            "--device: there is no 'gpu' on this machine; use cpu",
        ),
        (
            ["--model", "/nowhere", "--device", "meta:x", "x"],
            "--device: there is no 'meta:x' on this machine",
        ),
        (["--model", "/nowhere", "--schema", "/no.json", "x"], "/no.json: cannot be read"),
        (
            ["--model", "/nowhere", "--schema", "a", "--regex", "b", "x"],
            "--regex: not allowed with argument --sch",
        ),
        (["--model", "/nowhere"], "the following arguments are required: question"),
    ],
)
def test_mistakes_are_reported_in_one_line(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_code:
        main(arguments)
    printed = capsys.readouterr().err
    assert exit_code.value.code == 2
    assert line in printed
    assert printed.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_reported_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--model", "/nowhere", "--device", "cuda", "x"])
    printed = capsys.readouterr().err
    assert "--device: there is no 'cuda' on this machine; use cpu" in printed
    assert printed.count("\n") == 1


IN_ANY_ORDER = """
import importlib, itertools, sys
for order in itertools.permutations(("lladav", "lladav.generate", "lladav.generation")):
    for name in [name for name in sys.modules if name.partition(".")[0] == "lladav"]:
        del sys.modules[name]
    for name in order:
        importlib.import_module(name)
    import lladav
    from lladav import generate
    assert generate is lladav.generate is lladav.generation.generate, order
"""


def test_generate_is_a_function_in_any_order_of_imports(root: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(root / "platform")}
    subprocess.run([sys.executable, "-c", IN_ANY_ORDER], check=True, env=environment, timeout=100)


def test_the_module_is_a_command(root: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(root / "platform")}
    command = [sys.executable, "-W", "error::RuntimeWarning", "-m", "lladav.generate", "--help"]
    shown = subprocess.run(command, check=True, env=environment, capture_output=True, text=True, timeout=100)
    assert "--model" in shown.stdout


def test_a_terminal_shows_the_answer_while_it_is_decoded(model: LLaDAV, tokenizer: ChatTokenizer) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80)
    options = DecodingOptions(**SETTINGS)
    steps = updates(model, question(model.config, tokenizer, [], "x"), options)
    show(steps, tokenizer, options, console, masks_ahead=4)
    assert screen.getvalue().count("·") >= 3 + 2 + 1
