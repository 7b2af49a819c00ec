"""The shipped YAML files load in every combination, and published stages have the values of Table 6."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from lladav.config import loader as config
from lladav.config.schema import RELEASED, Config, ImageMode, ModelPart, Precision, Prediction, Template

COMBINATIONS = [
    (stage, model, data)
    for model, data in itertools.product(config.group_choices("model"), config.group_choices("data"))
    for stage in config.stages_of(data)
]
EVERYTHING = [ModelPart.language, ModelPart.projector, ModelPart.vision]
FULL_RATES = {"language": 1e-5, "projector": 1e-5, "vision": 2e-6}

TABLE_6 = {
    # stage: sources, samples, starts from, trained, rates, global batch, max length, images, template
    "pretrain": (
        ["llava_pretrain"], 558_000, None, [ModelPart.projector], {"projector": 1e-3}, 64, 8192,
        "square", "plain",
    ),
    "si": (["mammoth_si"], 10_000_000, "pretrain", EVERYTHING, FULL_RATES, 256, 8192, "tiled", "chat"),
    "ov": (["mammoth_ov"], 2_000_000, "si", EVERYTHING, FULL_RATES, 256, 16384, "tiled", "chat"),
    "vw": (["visualwebinstruct"], 900_000, "ov", EVERYTHING, FULL_RATES, 256, 8192, "tiled", "chat"),
    "ov_vw": (
        ["mammoth_ov", "visualwebinstruct"], 3_000_000, "vw", EVERYTHING, FULL_RATES, 256, 16384,
        "tiled", "chat",
    ),
    "llava_next": (["llava_next"], 738_000, "pretrain", EVERYTHING, FULL_RATES, 64, 8192, "tiled", "chat"),
}  # fmt: skip


@pytest.fixture(params=TABLE_6)
def published(request: pytest.FixtureRequest) -> Config:
    return config.load([f"stage={request.param}", "model=llada_v_8b", "data=llava", "cluster=kuberay"])


@pytest.mark.parametrize(("stage", "model", "data"), COMBINATIONS)
def test_every_combination_loads(stage: str, model: str, data: str):
    loaded = config.load([f"stage={stage}", f"model={model}", f"data={data}"])
    assert (loaded.stage.name, loaded.model.name, loaded.data.name) == (stage, model, data)


@pytest.mark.parametrize("cluster", config.group_choices("cluster"))
def test_every_cluster_loads(cluster: str):
    assert config.load([f"cluster={cluster}"]).cluster.name == cluster


def test_a_group_file_sets_only_its_group_and_training(root: Path):
    for group in config.GROUPS:
        for name in config.group_choices(group):
            sections = set(config.read_yaml(root / "conf" / group / f"{name}.yaml"))
            assert group in sections <= {group, "train", "objective"}, f"conf/{group}/{name}.yaml"


def test_every_stage_can_be_trained_on_some_data():
    offered = {stage for data in config.group_choices("data") for stage in config.stages_of(data)}
    assert offered == set(config.group_choices("stage"))


def test_published_stages_match_table_6(published: Config):
    stage = published.stage
    sources, samples, starts_from, trained, rates, batch, length, images, template = TABLE_6[stage.name]
    assert (stage.sources, stage.samples, stage.starts_from) == (sources, samples, starts_from)
    assert stage.trained == trained
    assert {part: getattr(stage.lr, part) for part in rates} == rates
    assert (stage.global_batch, stage.max_length, stage.epochs) == (batch, length, 1)
    assert (stage.images, stage.template) == (ImageMode[images], Template[template])


def test_all_stages_share_the_published_optimizer(published: Config):
    train = published.train
    assert (train.weight_decay, train.betas, train.eps, train.clip) == (0.0, [0.9, 0.999], 1e-8, 1.0)
    assert (train.warmup_ratio, train.seed, train.precision) == (0.03, 42, Precision.bf16)
    assert train.activation_checkpointing


def test_only_the_mixed_stage_appends_to_questions(published: Config):
    suffixes = {name: (s.text, s.probability) for name, s in published.stage.suffixes.items()}
    mixed = {"mammoth_ov": (" /no_think", 1.0), "visualwebinstruct": (" /think", 0.5)}
    assert suffixes == (mixed if published.stage.name == "ov_vw" else {})


def test_fine_tuning_has_the_settings_of_the_released_script():
    stage = config.load(["stage=finetune", "model=llada_v_8b", "data=mine"]).stage
    assert stage.starts_from == RELEASED
    assert stage.trained == EVERYTHING
    assert vars(stage.lr) == FULL_RATES
    assert (stage.max_length, stage.epochs) == (8192, 1)
    assert (stage.images, stage.template) == (ImageMode.tiled, Template.chat)
    assert stage.name not in config.curriculum()


def test_the_curriculum_orders_stages_by_starts_from():
    published = [stage for stage in config.curriculum() if stage in TABLE_6]
    assert published == ["pretrain", "si", "ov", "vw", "ov_vw"]


def test_the_full_size_model_is_the_released_one(root: Path):
    released = json.loads((root / "tests/golden/released/llada_8b_instruct_hf.config.json").read_text())
    language = config.load(["model=llada_v_8b"]).model.language
    assert language.width == released["hidden_size"]
    assert language.mlp_width == released["intermediate_size"]
    assert (language.layers, language.heads) == (
        released["num_hidden_layers"],
        released["num_attention_heads"],
    )
    assert language.vocab_size == released["vocab_size"]
    assert language.rope_theta == released["rope_theta"]
    assert language.max_positions == released["max_position_embeddings"]


def test_the_tiny_baseline_has_the_sizes_of_the_tiny_model():
    model, baseline = (config.load([f"model={name}"]).model for name in ("tiny", "tiny_ar"))
    for part in ("language", "vision", "images", "tokens", "tokenizer"):
        assert getattr(baseline, part) == getattr(model, part)
    assert baseline.weights.vision == model.weights.vision
    assert baseline.weights.language != model.weights.language


def test_the_full_size_baseline_has_the_vision_front_end_of_llada_v():
    model, baseline = (config.load([f"model={name}"]).model for name in ("llada_v_8b", "llama3_v_8b"))
    assert (baseline.vision, baseline.images) == (model.vision, model.images)
    assert baseline.prediction is Prediction.next_token


def test_the_tiny_model_trains_in_float32():
    assert config.load(["model=tiny"]).train.precision is Precision.float32
