"""Records become token ids by the settings of the stage; a cut never divides an image."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.manifest.encoding import EncodedRecord, Encoder, SampleCounts, cut
from data.manifest.spec import ManifestSpec
from data.records.parsing import parse
from data.records.record import BadSample, Reason, Record
from lladav.config.schema import (
    ImageMode,
    MissingMark,
    ObjectiveConfig,
    SourceConfig,
    SourceFormat,
    Suffix,
    Supervise,
    Template,
)
from lladav.inputs.chat import IMAGE_MARK, ChatTokenizer
from lladav.inputs.samples import IGNORED, IMAGE_PLACEHOLDER, Encoded, VisualKind, VisualShape
from tests.conftest import Golden
from tests.data import build


class Stage:
    """An encoder for a stage over a source ``s``."""

    def __init__(
        self,
        root: Path,
        tokenizer: Path,
        objective: ObjectiveConfig | None = None,
        missing_mark: MissingMark = MissingMark.reject,
        **stage,
    ) -> None:
        source = SourceConfig(SourceFormat.json, build.write_json(root, []))
        config = build.settings(root, tokenizer, {"s": source}, **stage)
        config.objective = objective or config.objective
        config.data.missing_mark = missing_mark
        self.encoder = Encoder(ManifestSpec.of(config))
        self.tokenizer = ChatTokenizer.load(tokenizer)

    def encode(
        self, *texts: str, name: str = "r", images: int = 0, video: bool = False, suffixed: bool = False
    ) -> EncodedRecord:
        record, shapes = self._record(texts, name, images, video)
        return self.encoder.encode(record, 0, suffixed, shapes)

    def count(self, *texts: str, images: int = 0) -> SampleCounts:
        record, shapes = self._record(texts, "r", images, False)
        return self.encoder.count(record, 0, False, shapes)

    def _record(
        self, texts: Sequence[str], name: str, images: int, video: bool
    ) -> tuple[Record, list[VisualShape]]:
        record = Record(name, ["a.png"] * images, video, build.turns(*texts))
        return record, [VisualShape(self.encoder.kind_of(record), 30, 30, 1)] * images

    def text_of(self, encoded: EncodedRecord) -> str:
        ids = encoded.text.input_ids
        return self.tokenizer.decode(ids[ids >= 0].tolist())


@pytest.fixture
def stage(tmp_path: Path, tokenizer: Path) -> Stage:
    return Stage(tmp_path, tokenizer)


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory, golden: Golden) -> list[Stage]:
    """Both templates and kinds of supervision, and lengths that cut off everything, something and nothing."""
    root, tokenizer = tmp_path_factory.mktemp("stages"), golden.folder / "tokenizer"
    return [
        Stage(root, tokenizer, ObjectiveConfig(supervise=supervise), template=template, max_length=length)
        for supervise in Supervise
        for template in Template
        for length in (5, 140, 1000)
    ]


def text_with_images(is_image: list[bool]) -> Encoded:
    ids = np.where(is_image, IMAGE_PLACEHOLDER, np.arange(len(is_image))).astype(np.int32)
    return Encoded(ids, ids, np.zeros_like(ids), np.ones(len(ids), bool))


@given(st.data())
def test_a_cut_keeps_the_longest_beginning_and_whole_images(data: st.DataObject) -> None:
    is_image = data.draw(st.lists(st.booleans(), min_size=1, max_size=30))
    tokens = data.draw(st.lists(st.integers(1, 20), min_size=sum(is_image), max_size=sum(is_image)))
    limit = data.draw(st.integers(0, 200))
    text = text_with_images(is_image)
    found = cut(text, tokens, limit)
    kept = len(found.text.input_ids)
    np.testing.assert_array_equal(found.text.input_ids, text.input_ids[:kept])
    assert found.visuals == sum(is_image[:kept])
    assert found.visual_tokens == sum(tokens[: found.visuals])
    assert found.length <= limit
    assert found.was_cut == (kept < len(is_image))
    if found.was_cut:
        following = tokens[found.visuals] if is_image[kept] else 1
        assert found.length + following > limit


@pytest.mark.parametrize(
    ("images", "video", "mode", "kind"),
    [
        (1, False, ImageMode.tiled, VisualKind.tiled),
        (1, False, ImageMode.square, VisualKind.square),
        (2, False, ImageMode.tiled, VisualKind.padded),
        (3, False, ImageMode.square, VisualKind.padded),
        (1, True, ImageMode.tiled, VisualKind.video),
    ],
)
def test_the_kind_of_images_depends_on_their_number_and_the_stage(
    images: int, video: bool, mode: ImageMode, kind: VisualKind, tmp_path: Path, tokenizer: Path
) -> None:
    encoder = Stage(tmp_path, tokenizer, images=mode).encoder
    assert encoder.kind_of(Record("r", ["a"] * images, video, [])) is kind


def test_golden_training_records(golden: Golden, tmp_path: Path, tokenizer: Path) -> None:
    stages = {t: Stage(tmp_path, tokenizer, template=t, max_length=16384) for t in Template}
    differing = []
    for case in golden.cases["training_records"]:
        encoder = stages[Template(case["template"])].encoder
        record = parse(json.dumps(case["record"]).encode())
        shapes = [VisualShape(encoder.kind_of(record), 30, 30, 1)] * len(record.media)
        text = encoder.encode(record, 0, False, shapes).text
        if (text.input_ids.tolist(), text.labels.tolist()) != (case["input_ids"], case["labels"]):
            differing.append(case["record"]["id"])
    assert not differing


@pytest.mark.parametrize(("marks", "images"), [(0, 1), (1, 0), (2, 1), (1, 2)])
def test_marks_must_match_the_images(stage: Stage, marks: int, images: int) -> None:
    with pytest.raises(BadSample, match=f"image_count: {marks} <image> marks for {images} images"):
        stage.encode("<image>" * marks + "What?", "That.", images=images)


@pytest.mark.parametrize("mark", ["<video>", "<image>"])
def test_either_mark_stands_for_a_video(stage: Stage, mark: str) -> None:
    encoded = stage.encode(f"{mark}\nWhat?", "That.", images=1, video=True)
    assert list(encoded.text.input_ids).count(IMAGE_PLACEHOLDER) == 1


def test_a_video_mark_is_text_if_there_is_an_image_mark(stage: Stage) -> None:
    encoded = stage.encode("<image>\nWhat is <video>?", "A mark.", images=1, video=True)
    assert "What is <video>?" in stage.text_of(encoded)


def test_the_suffix_is_appended_before_the_mark_is_moved(tmp_path: Path, tokenizer: Path) -> None:
    stage = Stage(tmp_path, tokenizer, suffixes={"s": Suffix(" /think")})
    encoded = stage.encode("What is this? <image>", "That.", images=1, suffixed=True)
    assert "What is this?  /think" in stage.text_of(encoded)  # as in data sets whose turns contain the suffix


def test_noise_is_removed_only_beside_images(stage: Stage) -> None:
    question = "QA_GT_caption_based_noisy What?"
    assert "noisy" in stage.text_of(stage.encode(question, "That."))
    assert "noisy" not in stage.text_of(stage.encode(f"<image>\n{question}", "That.", images=1))


@pytest.mark.parametrize(("images", "video"), [(1, False), (3, False), (1, True)])
def test_missing_marks_can_be_prepended_to_the_first_question(
    images: int, video: bool, tmp_path: Path, tokenizer: Path
) -> None:
    stage = Stage(tmp_path, tokenizer, missing_mark=MissingMark.prepend)
    texts = ("What?", "That.", "And?", "This.")
    found = stage.encode(*texts, images=images, video=video)
    marked = stage.encode(f"{IMAGE_MARK}\n" * images + texts[0], *texts[1:], images=images, video=video)
    np.testing.assert_array_equal(found.text.input_ids, marked.text.input_ids)
    assert found.visuals == images


def test_too_few_marks_are_never_completed(tmp_path: Path, tokenizer: Path) -> None:
    stage = Stage(tmp_path, tokenizer, missing_mark=MissingMark.prepend)
    with pytest.raises(BadSample, match="image_count: 1 <image> marks for 2 images"):
        stage.encode("<image>\nWhat?", "That.", images=2)
    assert "<image>" not in stage.text_of(stage.encode("What?", "That."))


def test_an_image_in_an_answer_carries_no_loss(stage: Stage) -> None:
    encoded = stage.encode("Show it.", "Here: <image>", images=1)
    image = encoded.text.input_ids == IMAGE_PLACEHOLDER
    assert encoded.text.answer[image].all()
    assert not encoded.text.supervised[image].any()


def test_a_video_mark_in_a_record_without_video_is_text(stage: Stage) -> None:
    assert "<video>" in stage.text_of(stage.encode("What is <video>?", "A mark."))


def test_the_suffix_ends_every_human_turn(tmp_path: Path, tokenizer: Path) -> None:
    stage = Stage(tmp_path, tokenizer, suffixes={"s": Suffix(" /think")})
    encoded = stage.encode("One?", "Yes.", "Two?", "No.", suffixed=True)
    text = stage.text_of(encoded)
    assert "One? /think" in text
    assert "Two? /think" in text
    assert text.count("/think") == 2
    assert "/think" not in stage.text_of(stage.encode("One?", "Yes."))


def test_suffixes_are_drawn_by_seed_and_id_with_their_probability(tmp_path: Path, tokenizer: Path) -> None:
    ids = [f"s:records.json#{n}" for n in range(2000)]

    def drawn(probability: float) -> list[bool]:
        stage = Stage(tmp_path, tokenizer, suffixes={"s": Suffix(" /think", probability)})
        return [stage.encoder.draws_suffix(0, i) for i in ids]

    assert drawn(0.5) == drawn(0.5)
    assert sum(drawn(0.5)) == pytest.approx(1000, abs=100)
    assert all(drawn(1.0))
    assert not any(drawn(0.0))


def test_a_source_without_suffix_draws_none(stage: Stage) -> None:
    assert not stage.encoder.draws_suffix(0, "s:records.json#0")


def test_the_plain_template_is_image_caption_and_newline(tmp_path: Path, tokenizer: Path) -> None:
    stage = Stage(tmp_path, tokenizer, template=Template.plain, images=ImageMode.square)
    encoded = stage.encode("<image>\nDescribe it.", "A seven.", images=1)
    assert encoded.text.input_ids[0] == IMAGE_PLACEHOLDER
    assert stage.text_of(encoded) == "A seven.\n"


def test_the_objective_decides_which_tokens_are_supervised(tmp_path: Path, tokenizer: Path) -> None:
    answers = Stage(tmp_path, tokenizer, ObjectiveConfig(supervise=Supervise.answers)).encode(
        "What?", "That."
    )
    released = Stage(tmp_path, tokenizer).encode("What?", "That.")
    np.testing.assert_array_equal(answers.text.input_ids, released.text.input_ids)
    np.testing.assert_array_equal(answers.text.labels != IGNORED, answers.text.answer)
    assert np.count_nonzero(released.text.labels != IGNORED) > np.count_nonzero(released.text.answer)


def test_the_number_of_final_eos_is_drawn_by_record(tmp_path: Path, tokenizer: Path) -> None:
    plain = Stage(tmp_path, tokenizer).encode("What?", "That.").text.input_ids
    stage = Stage(tmp_path, tokenizer, ObjectiveConfig(eos_tail=3))
    tails = [stage.encode("What?", "That.", name=f"r{n}").text.input_ids[len(plain) :] for n in range(40)]
    assert {len(tail) for tail in tails} == {0, 1, 2, 3}
    assert set(np.concatenate(tails).tolist()) == {stage.tokenizer.ids.eos}


def test_a_sample_whose_whole_answer_is_cut_off_is_bad(tmp_path: Path, tokenizer: Path) -> None:
    whole = Stage(tmp_path, tokenizer).encode("What?", "That.")
    first = int(np.argmax(whole.text.answer))
    with pytest.raises(BadSample) as bad:
        Stage(tmp_path, tokenizer, max_length=first).encode("What?", "That.")
    assert bad.value.reason is Reason.answer_cut
    kept = Stage(tmp_path, tokenizer, max_length=first + 1).encode("What?", "That.")
    assert kept.was_cut
    assert kept.length == first + 1


def test_a_record_without_answer_is_bad(stage: Stage) -> None:
    with pytest.raises(BadSample) as bad:
        stage.encode("Is anybody there?")
    assert bad.value.reason is Reason.bad_record


@given(st.data())
def test_the_counts_of_a_record_are_those_of_its_encoding(stages: list[Stage], data: st.DataObject) -> None:
    stage = data.draw(st.sampled_from(stages))
    texts = data.draw(
        st.lists(st.sampled_from(["What?", "<image>", "Two <image> words.", ""]), min_size=1, max_size=5)
    )
    images = data.draw(st.sampled_from([0, "".join(texts).count(IMAGE_MARK)]))
    outcomes = []
    for work in (stage.encode, stage.count):
        try:
            outcomes.append(work(*texts, images=images))
        except BadSample as bad:
            outcomes.append(str(bad))
    encoded, counts = outcomes
    if isinstance(encoded, EncodedRecord):
        supervised = int(np.count_nonzero(encoded.text.supervised))
        encoded = SampleCounts(encoded.length, encoded.visual_tokens, supervised, encoded.was_cut)
    assert counts == encoded
