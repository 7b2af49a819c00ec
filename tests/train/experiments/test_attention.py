"""The experiment ``attention``: a causal and a bidirectional model on a folder of images."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lladav.analysis.attention import AttentionMetrics, attention_metrics
from lladav.config.schema import Attention, Config, Prediction
from lladav.errors import UserError
from lladav.inputs.packing import pack
from tests.lladav.build import noise_image, text_sample, tiny_model
from tests.train.experiments.subjects import a_folder_of_images, digits_config, subject, untrained
from train.experiments.attention import ATTENTION, AttentionOptions, measure, sink_shares, summary, tables
from train.experiments.definition import Trial
from train.experiments.image_prompts import image_questions, images_key
from train.experiments.kind import Measured


@pytest.fixture
def config() -> Config:
    return digits_config()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return a_folder_of_images(tmp_path)


def test_only_a_bidirectional_model_attends_to_later_positions(
    config: Config, images: Path, tmp_path: Path
) -> None:
    causal = {"attention": Attention.causal, "prediction": Prediction.next_token}
    trials = []
    for name, changes in {"bidirectional": {}, "causal": causal}.items():
        weights = untrained(config, tmp_path / name, **changes)
        measured = measure(subject("attention", config, weights, images=str(images)))
        trials.append(Measured(Trial(name, {}, {}), json.loads(json.dumps(measured))))
    both, past = (each.measurement["future_looking"] for each in trials)
    assert past["all"] == {"mean": 0, "deviation": 0, "low": 0, "high": 0}
    assert len(both["layers"]) == config.model.language.layers
    assert all(0.3 < layer["low"] < layer["high"] < 0.7 for layer in both["layers"])
    assert [line.split("|")[4].split()[0] for line in tables(trials).splitlines()[3:]] == ["0.00"]
    ATTENTION.draw(trials, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def test_metrics_are_summed_up_over_the_sequences() -> None:
    model = tiny_model()
    samples = [text_sample(str(length), length, seed=length) for length in (4, 7, 12)]
    metrics = AttentionMetrics.concatenate(
        [attention_metrics(model, pack([s], model.geometry)) for s in samples]
    )
    metrics = replace(metrics, first_is_largest_S=torch.tensor([True, True, False]))
    found = summary(metrics, [4, 7, 12], sigmas=(0.0, 0.1, 0.9))
    entropy = metrics.entropy_bits_SK
    assert found["entropy_bits"]["all"]["mean"] == pytest.approx(entropy.mean().item())
    assert found["entropy_bits"]["layers"][1]["deviation"] == pytest.approx(entropy[:, 1].std().item())
    expected = {sigma: int(metrics.sink_S(sigma).sum()) for sigma in (0.0, 0.1, 0.9)}
    assert found["sinks"] == {"0": 2, "0.1": expected[0.1], "0.9": 0}
    shares = sink_shares(found, torch.tensor([0.0, 0.1, 0.9]).numpy())
    assert (3 * shares).round().tolist() == list(expected.values())


def test_images_of_a_folder(config: Config, images: Path) -> None:
    chosen = image_questions(subject("attention", config, images=str(images), prompt="What is this?"))
    assert sorted(question.id for question in chosen) == ["a.png", "b.JPG", "more/c.webp"]
    assert {question.text for question in chosen} == {"What is this?"}
    fewer = image_questions(subject("attention", config, images=str(images), sequences=2))
    assert [question.id for question in fewer] == [
        q.id for q in image_questions(subject("attention", config, images=str(images), sequences=2))
    ]
    assert len(fewer) == 2


def test_images_of_the_held_out_questions_by_default(config: Config) -> None:
    chosen = image_questions(subject("attention", config))
    assert len(chosen) == len({question.id for question in chosen}) == 100
    assert {question.text for question in chosen} == {AttentionOptions().prompt}
    assert {question.type for question in image_questions(subject("attention", config), kinds=["read"])} == {
        "read"
    }


def test_another_image_or_prompt_is_another_measurement(config: Config, images: Path) -> None:
    keys = {
        images_key(subject("attention", config, images=str(images), prompt=prompt)) for prompt in ("a", "b")
    }
    noise_image(40, 40, seed=1).save(images / "a.png")
    keys.add(images_key(subject("attention", config, images=str(images), prompt="a")))
    assert len(keys) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sequences": 1}, "use 2 or more"),
        ({"dtype": "float8"}, "no such choice"),
        ({"image": "folder"}, "unknown key"),
    ],
)
def test_bad_options_are_refused(config: Config, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        subject("attention", config, **options)


def test_a_folder_without_images_is_refused(config: Config, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"has 0 images; name a folder of images in experiment\.options\.images"
    ):
        image_questions(subject("attention", config, images=str(tmp_path)))
