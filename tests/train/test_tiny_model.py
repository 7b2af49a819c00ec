"""The command that trains the shipped model: towers, lessons in two processes, the files of a model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data.digits import glyphs, json_answers
from data.digits.questions import Split
from data.digits.records import DigitRecord, DigitVisual
from data.digits.scenes import compose
from lladav.checkpoint import check_model, open_model
from lladav.config.schema import Config
from lladav.errors import UserError
from lladav.inputs.chat import ChatTokenizer
from lladav.inputs.images import ViewGeometry
from lladav.inputs.packing import pack
from lladav.inputs.samples import IGNORED
from lladav.inputs.tool_text import call_text
from serve.api.planning.prompts import chat_prompt
from serve.api.planning.tools import callable_tools
from serve.api.schemas.completion_requests import ChatRequest
from tests.digits import shared_digits
from train import towers
from train.evaluate import Score
from train.tiny_model import card, configured, main, ship, train
from train.toy_towers import calls
from train.toy_towers.batches import EqualLengthBatches
from train.toy_towers.fit import Fit, fit
from train.toy_towers.lessons import lessons
from train.toy_towers.recipe import load_recipe
from train.toy_towers.samples import Lesson, SampleWriter
from train.toy_towers.whole_model import WeightedMean

MIXTURE = load_recipe("tiny").phases["refinement"].mixture
SHORT = 0.01
"""Length of the towers' pretraining relative to the real one."""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    made = configured(tmp_path_factory.mktemp("work"))
    made.data.root, made.model.tokenizer = str(shared_digits()), str(shared_digits() / "tokenizer")
    return made


@pytest.fixture(scope="module")
def writer(config: Config) -> SampleWriter:
    tokenizer = ChatTokenizer.load(config.model.tokenizer)
    return SampleWriter(tokenizer, ViewGeometry.of(config.model))


def some_lessons(total: int = 200) -> list[Lesson]:
    return list(lessons("test", total, 1, MIXTURE))


@pytest.mark.slow
def test_the_model_is_trained_and_written(config: Config, tmp_path: Path):
    work = Path(str(config.model.weights.vision)).parents[1]
    recipe = load_recipe("tiny")
    phases = {name: replace(each, lessons=40, steps=3, batch=8) for name, each in recipe.phases.items()}
    recipe = replace(recipe, alignment=SHORT, phases=phases)
    towers.build(config, dict.fromkeys(towers.PARTS, SHORT))
    train(config, recipe, work)
    ship(config, work, tmp_path / "tiny")
    check_model(tmp_path / "tiny")
    model = open_model(tmp_path / "tiny", torch.bfloat16)
    trained = open_model(work / "weights", torch.float32)
    for name, value in trained.named_parameters():
        assert torch.equal(model.get_parameter(name), value.bfloat16()), name


def test_a_mean_of_weights_has_its_shares():
    model = torch.nn.Linear(2, 2)
    mean = WeightedMean(model)
    for value, share in ((1.0, 0.3), (5.0, 0.0), (2.0, 0.9)):
        torch.nn.init.constant_(model.weight, value)
        mean.add(share)
    mean.copy_to_model()
    assert torch.allclose(model.weight, torch.full((2, 2), 1.75))


def test_an_existing_folder_and_an_unknown_setting_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for arguments, line in ([f"out={tmp_path}"], "already there"), (["steps=3"], "not a setting"):
        with pytest.raises(SystemExit):
            main(arguments)
        assert line in capsys.readouterr().err


def test_a_mistake_in_a_recipe_is_reported_with_its_key(tmp_path: Path):
    (tmp_path / "recipe").mkdir()
    text = Path("conf/recipe/tiny.yaml").read_text()
    for old, new, line in (
        ("alignment:", "alinment:", r"recipe\.alinment: no such key.*alignment"),
        ("steps:", "stepz:", r"recipe\.phases\.whole\.stepz: no such key.*steps"),
        ("batch: ", "# ", r"recipe\.phases\.whole\.batch: is missing"),
        ("average:\n    several_images: 0.3\n    calls: 0.7", "average: {}", r"recipe\.average: is empty"),
        ("    calls: 0.7", "    call: 0.7", r"recipe\.average\.call: no such phase.*calls"),
        ("clip:", "clips:", r"recipe\.phases\.whole\.shares\.clips: no such kind.*clip"),
    ):
        (tmp_path / "recipe/tiny.yaml").write_text(text.replace(old, new))
        with pytest.raises(UserError, match=line):
            load_recipe("tiny", tmp_path)
    with pytest.raises(UserError, match=r"recipe=tinny: no such recipe.*tiny"):
        load_recipe("tinny", tmp_path)


def test_lessons_show_training_glyphs_only_and_have_json_in_every_form():
    drawn = some_lessons()
    allowed = set(glyphs.training_pool().indices.tolist())
    assert all(set(visual.glyphs) <= allowed for each in drawn for visual in each.record.visuals)
    framed = [each for each in drawn if each.frame]
    assert {each.opening is None for each in framed} == {True, False}
    assert any(pair[1].startswith("{") for each in drawn if not each.frame for pair in each.record.pairs)


def test_a_sample_has_a_view_or_a_character_for_each_visual_token(writer: SampleWriter, config: Config):
    drawn = [each for each in some_lessons(60) if each.record.visuals]
    packed = pack([writer.seen(each) for each in drawn], ViewGeometry.of(config.model))
    spelled = [writer.spelled(each) for each in drawn]
    assert packed.lengths == [len(sample.text.input_ids) for sample in spelled]
    characters = [token for each in drawn for token in writer.characters(each.record)]
    assert len(packed.visual_positions_V) == len(characters)


def test_a_call_of_a_tool_has_the_prompt_and_the_text_of_a_server(writer: SampleWriter, config: Config):
    tokenizer = ChatTokenizer.load(config.model.tokenizer)
    rng = np.random.default_rng(0)
    function, scene = calls.tool(["digits", "count"], rng), compose(rng, glyphs.training_pool())
    parts = calls.call(function, scene.digits, rng)
    arguments = {"digits": list(scene.digits), "count": len(scene.digits)}
    assert json_answers.whole_text(parts) == call_text(function["name"], json.dumps(arguments))

    pairs = [("Read the digits.", json_answers.whole_text(parts))]
    record = DigitRecord("r", "read", pairs, [DigitVisual((scene,))])
    ids = writer.seen(Lesson(record, parts, system=calls.system_message(function))).text.input_ids.tolist()
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    content = [image, {"type": "text", "text": "Read the digits."}]
    tools = [{"type": "function", "function": function}]
    body = ChatRequest.model_validate(
        {"model": "m", "messages": [{"role": "user", "content": content}], "tools": tools}
    )
    served = chat_prompt(body, callable_tools(body), tokenizer).text.input_ids.tolist()
    assert ids[: len(served)] == served


def test_only_the_values_of_a_frame_are_predicted(writer: SampleWriter, config: Config):
    tokenizer = ChatTokenizer.load(config.model.tokenizer)
    for lesson in (each for each in some_lessons() if each.frame and each.opening is None):
        text = writer.spelled(lesson).text
        predicted = [token for token in text.labels[text.labels != IGNORED] if token != tokenizer.ids.eos]
        values = [part.text for part in lesson.frame if part.is_value]
        assert tokenizer.decode(predicted) == "".join(values)
        assert tokenizer.decode(text.input_ids.tolist()).endswith("".join(part.text for part in lesson.frame))


def test_batches_have_neighbours_of_equal_length_and_each_sample_once(writer: SampleWriter, config: Config):
    samples = [writer.spelled(each) for each in some_lessons(256)]
    batches = EqualLengthBatches(samples, ViewGeometry.of(config.model), batch=64, seed=0)
    epoch = [batches.at(step) for step in range(4)]
    assert sorted(s.id for batch in epoch for s in batch) == sorted(s.id for s in samples)
    lengths = np.array([len(s.text.input_ids) for batch in epoch for s in batch])
    assert np.mean(lengths[1:] == lengths[:-1]) > 0.3
    assert [s.id for s in batches.at(4)] != [s.id for s in epoch[0]]


def test_an_interrupted_fit_resumes_bit_for_bit(tmp_path: Path):
    whole, resumed = weights_after(60, None), None
    for steps in (30, 60):
        resumed = weights_after(steps, tmp_path / "state.pt", save_every=10, total=60)
    assert resumed is not None
    assert torch.equal(whole, resumed)


def weights_after(steps: int, file: Path | None, save_every: int = 10, total: int = 60) -> torch.Tensor:
    """The weights of a small fit that is interrupted after some steps."""
    torch.manual_seed(0)
    layers = torch.nn.ModuleDict({"layers": torch.nn.ModuleList([torch.nn.Linear(4, 4)])})
    inputs = torch.randn(16, 4)

    def loss_at(step: int) -> torch.Tensor:
        if step == steps:
            raise KeyboardInterrupt
        return (layers["layers"][0](inputs + step) - inputs).square().mean()  # type: ignore[index]

    named = [(f"x.{name}", parameter) for name, parameter in layers.named_parameters()]
    try:
        fit("test", named, Fit(total, 1, 1e-2, 1e-2), loss_at, file, save_every)
    except KeyboardInterrupt:
        assert steps < total
    return torch.cat([parameter.detach().flatten() for _, parameter in named])


def test_the_card_has_the_scores_of_both_halves():
    scores = {"read": Score(20, 19), "all": Score(40, 30)}
    text = card({Split.test: scores, Split.validation: {**scores, "all": Score(40, 39)}}, "tiny")
    assert "| read | 20 | 95.0% | 95.0% |" in text
    assert "| all | 40 | 75.0% | 97.5% |" in text
    assert "conf/recipe/tiny.yaml" in text
