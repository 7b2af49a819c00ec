"""The held-out questions as a task of LMMs-Eval."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml
from PIL import Image

from tests.lladav.build import noise_image
from train.benchmarks.held_out_task import TASK, write_task
from train.evaluation.held_out import Question


def test_the_task_has_the_questions_with_their_media(tmp_path: Path) -> None:
    images = [noise_image(20, 10, seed) for seed in range(2)]
    files = [tmp_path / f"{number}.png" for number in range(2)]
    for image, file in zip(images, files, strict=True):
        image.save(file)
    clip = tmp_path / "clip.gif"
    questions = [
        Question("a", "read", files, False, "Which digits?", "53"),
        Question("b", "video", [clip], True, "What happens?", "8"),
        Question("c", "text", [], False, "2 + 2?", "4"),
    ]
    folder = write_task(questions, tmp_path / "task", max_tokens=16)
    task, functions = _task(folder)
    documents = pq.read_table(task["dataset_kwargs"]["data_files"]["test"]).to_pylist()
    assert [each[task["doc_to_text"]] for each in documents] == [each.text for each in questions]
    assert [each[task["doc_to_target"]] for each in documents] == ["53", "8", "4"]
    assert task["generation_kwargs"]["max_new_tokens"] == 16
    shown, played, nothing = (functions.media(each) for each in documents)
    assert all(isinstance(each, Image.Image) for each in shown)
    assert all(
        np.array_equal(np.asarray(found), np.asarray(image))
        for found, image in zip(shown, images, strict=True)
    )
    assert (played, nothing) == ([{"type": "video", "url": str(clip)}], [])
    assert functions.scores(documents[0], ["53"]) == {"exact_match_of_answer": 1.0}
    assert functions.scores(documents[0], ["54"]) == {"exact_match_of_answer": 0.0}


def _task(folder: Path) -> tuple[dict[str, Any], Any]:
    """The task's YAML without its functions, and the module with them."""
    text = (folder / f"{TASK}.yaml").read_text(encoding="utf-8").replace("!function ", "")
    spec = importlib.util.spec_from_file_location("task_functions", folder / "task_functions.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return yaml.safe_load(text), module
