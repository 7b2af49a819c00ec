"""Held-out questions: suffixes of the stage, and images as the model's input."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from data.digits.questions import Split
from lladav.config.loader import load
from lladav.config.schema import ImagesConfig
from lladav.inputs.chat import ChatTokenizer
from tests.conftest import Golden
from tests.lladav.build import noise_image, tiny_config, tiny_model
from train.evaluation.held_out import Question, prompt, read_questions, with_suffixes

ASKED = [
    Question("a", "arithmetic", [], False, "Add all digits.", "8"),
    Question("b", "read", [], False, "Which digits are there?", "53"),
]


def test_the_last_stage_appends_think_or_no_think():
    suffixes = load(["stage=ov_vw", "model=tiny", "data=digits"]).stage.suffixes
    texts = [question.text for question in with_suffixes(ASKED, suffixes)]
    assert texts == ["Add all digits. /think", "Which digits are there? /no_think"]


def test_questions_are_read_by_half(tmp_path: Path):
    rows = [
        {"id": each.id, "type": each.type, "question": each.text, "answer": each.answer} for each in ASKED
    ]
    lines = [json.dumps(rows[0]), json.dumps({**rows[1], "split": "test"})]
    (tmp_path / "questions.jsonl").write_text("\n".join(lines))
    assert read_questions(tmp_path, Split.validation) == [ASKED[0]]
    assert read_questions(tmp_path, Split.test) == [replace(ASKED[1], split=Split.test)]


def test_other_stages_append_nothing():
    suffixes = load(["stage=vw", "model=tiny", "data=digits"]).stage.suffixes
    assert with_suffixes(ASKED, suffixes) == ASKED


def test_frames_are_spread_over_the_whole_clip(tmp_path: Path, golden: Golden):
    first, *rest = [noise_image(30, 20, seed) for seed in range(9)]
    first.save(tmp_path / "a.gif", save_all=True, append_images=rest, duration=100)
    images = ImagesConfig(grid=3, frame_side=2, inference_frames=3)
    model = tiny_model(replace(tiny_config(), images=images))
    asked = Question("a", "video", [tmp_path / "a.gif"], True, "What is it?", "8")
    (visual,) = prompt(asked, model, ChatTokenizer.load(golden.folder / "tokenizer")).visuals
    with Image.open(tmp_path / "a.gif") as clip:
        for view, number in zip(visual.views, (0, 4, 8), strict=True):
            clip.seek(number)
            tile = clip.convert("RGB").resize((28, 28), Image.Resampling.BICUBIC)
            assert np.array_equal(view, np.asarray(tile).transpose(2, 0, 1))
