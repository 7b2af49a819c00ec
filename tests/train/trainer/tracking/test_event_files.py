"""Event files, as TensorBoard reads them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.train.trainer.tracking.runs import ANSWER, NAME, PICTURE, track, track_and_resume


def read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder / NAME / "tensorboard"))
    events.Reload()
    return events


def test_steps_settings_and_answers_are_shown(tmp_path: Path) -> None:
    track(tmp_path, "tensorboard", 0, 3, {})
    events = read(tmp_path)
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 0.5), (2, 1.0), (3, 1.5)]
    [settings] = events.Tensors("settings/text_summary")
    assert b"name: si" in settings.tensor_proto.string_val[0]
    [text] = events.Tensors("validation/0/text_summary")
    assert text.tensor_proto.string_val[0].decode() == ANSWER.text
    [picture] = events.Images("validation/0")
    assert picture.step == 3
    shown = np.asarray(Image.open(io.BytesIO(picture.encoded_image_string)))
    np.testing.assert_array_equal(shown, PICTURE.transpose(1, 2, 0))


def test_a_resumed_run_keeps_the_steps_before_and_repeats_none(tmp_path: Path) -> None:
    track_and_resume(tmp_path, "tensorboard", {})
    assert [event.step for event in read(tmp_path).Scalars("loss")] == list(range(1, 7))
