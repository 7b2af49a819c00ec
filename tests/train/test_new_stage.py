"""A new stage is one YAML file and a new source one line: both work without a change in the code."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from k8s.costs import cost
from k8s.jobs import PROFILES, jobs
from lladav.config import loader
from lladav.errors import UserError
from tests.digits import copy_digits
from tests.lladav.build import noise_image
from tests.train.trainings import losses_without_ray

STAGE = """
stage:
  name: charts
  starts_from: pretrain
  trained: [language, projector]
  lr: {language: 1e-4, projector: 1e-4}
  global_batch: 32
  max_length: 1024
  images: tiled
  template: chat
  sources: [charts]
  samples: 64
  ablation: true
"""
SOURCE = "    charts: {format: jsonl, annotations: charts/annotations.jsonl, media: charts/images}\n"


@pytest.fixture
def conf(root: Path, tmp_path: Path) -> Path:
    """A copy of ``conf`` with the new stage, and the new source in the built-in data set."""
    conf = Path(shutil.copytree(root / "conf", tmp_path / "conf"))
    (conf / "stage" / "charts.yaml").write_text(STAGE)
    digits = conf / "data" / "digits.yaml"
    digits.write_text(digits.read_text().replace("  sources:\n", f"  sources:\n{SOURCE}"))
    return conf


def write_records(folder: Path, count: int = 64) -> None:
    (folder / "images").mkdir(parents=True)
    records = []
    for number in range(count):
        noise_image(60, 40, number).save(folder / "images" / f"{number}.png")
        question = {"from": "human", "value": "<image>\nWhich digits are there?"}
        answer = {"from": "gpt", "value": str(number)}
        records.append({"id": str(number), "image": f"{number}.png", "conversations": [question, answer]})
    (folder / "annotations.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))


@pytest.mark.slow
@pytest.mark.parametrize("model", ["tiny", "tiny_ar"])
def test_a_new_stage_trains_on_a_new_source(conf: Path, tmp_path: Path, model: str) -> None:
    data = copy_digits(tmp_path)
    write_records(data / "charts")
    overrides = [
        *("stage=charts", f"model={model}", "data=digits"),
        *(f"data.root={data}", f"train.storage={tmp_path}/runs"),
        *(f"model.tokenizer={data}/tokenizer", "model.weights.language=null", "model.weights.vision=null"),
    ]
    losses = losses_without_ray(loader.load(overrides, conf), 2)
    assert all(math.isfinite(loss) and loss > 0 for loss in losses)


def test_a_new_stage_is_offered_where_its_source_is(conf: Path) -> None:
    assert "charts" in loader.stages_of("digits", conf)
    assert "charts" not in loader.stages_of("llava", conf)
    assert "charts" not in loader.curriculum(conf)
    with pytest.raises(UserError, match=r"stage\.sources=\['?charts'?\]: data llava has no charts"):
        loader.load(["stage=charts", "data=llava"], conf)


def test_a_new_stage_gets_a_job_and_costs(conf: Path) -> None:
    names = {
        overlay: [job["metadata"]["name"] for job in jobs(PROFILES[overlay], conf)] for overlay in PROFILES
    }
    assert [overlay for overlay in names if "lladav-charts" in names[overlay]] == ["dev-cpu"]
    assert cost(loader.load(["stage=charts", "model=tiny", "data=digits"], conf)).samples == 64
