"""The built-in data set: published formats, held-out digits unseen in training, correct answers."""

import io
import json
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data.digits import bpe, corpus, glyphs, maps, preparation, questions, records, scenes
from data.digits.questions import Split
from lladav.config.loader import load
from lladav.errors import UserError
from lladav.inputs.chat import SYSTEM_PROMPT, ChatTokenizer, parse_conversation
from lladav.inputs.images import ViewGeometry, token_count, view_count
from lladav.inputs.samples import VisualKind, VisualShape
from tests.digits import SCALE, copy_digits

GEOMETRY = ViewGeometry(
    tile=40, side=5, grid=6, shrink_above_views=4, frame_side=3, newline_per_frame_row=True
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_digits(tmp_path_factory.mktemp("built_in"))


def some_scenes(total: int = 200) -> list[scenes.Scene]:
    rng = np.random.default_rng(5)
    return [scenes.compose(rng, glyphs.training_pool()) for _ in range(total)]


def test_a_stratified_fifth_is_held_out():
    pools = [glyphs.training_pool(), *map(glyphs.held_out_pool, Split)]
    assert sorted(index for pool in pools for index in pool.indices) == list(range(1797))
    for digit in range(10):
        total = np.sum(glyphs.labels() == digit)
        shares = [len(pool.by_digit[digit]) / total for pool in pools]
        assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.01)


def test_no_training_image_shows_a_held_out_digit(root: Path):
    recorded = json.loads((root / "glyphs.json").read_text())
    held_out = set(recorded["held_out"])
    assert held_out == {*recorded["validation"], *recorded["test"]}
    examined = {
        path: set(shown) for path, shown in recorded["pictures"].items() if path.startswith("held_out/")
    }
    trained = {path: set(shown) for path, shown in recorded["pictures"].items() if path not in examined}
    assert all(shown and not shown & held_out for shown in trained.values())
    assert all(shown and shown <= held_out for shown in examined.values())


def test_the_halves_of_the_held_out_questions_share_no_digit_and_no_choice_of_words(root: Path):
    shown = json.loads((root / "glyphs.json").read_text())["pictures"]
    seen, asked = {}, {}
    for split in Split:
        own = [each for each in held_out(root) if each["split"] == split]
        paths = [path for each in own for path in _paths(each)]
        seen[split] = {glyph for path in paths for glyph in shown[f"held_out/images/{path}"]}
        assert seen[split] == set(glyphs.held_out_pool(split).indices.tolist())
        asked[split] = {each["question"] for each in own}
    several = {
        wording for wordings in (*questions.SYNONYMS, *questions.REWORDED.values()) for wording in wordings
    }
    assert not seen[Split.validation] & seen[Split.test]
    assert not asked[Split.validation] & asked[Split.test] & several


def test_no_training_question_is_reworded(root: Path):
    trained = "".join(path.read_text() for path in root.glob("*/annotations.json*"))
    assert "Read the digits" in trained
    assert not any(wording in trained for wordings in questions.REWORDED.values() for wording in wordings)


def held_out(root: Path) -> list[dict]:
    return [json.loads(line) for line in (root / "held_out/questions.jsonl").read_text().splitlines()]


def test_every_image_on_disk_is_listed_with_its_glyphs(root: Path):
    recorded = json.loads((root / "glyphs.json").read_text())["pictures"]
    assert set(recorded) == set(_pictures_on_disk(root))


def test_full_size_sets_draw_from_the_training_glyphs_only():
    allowed = set(glyphs.training_pool().indices.tolist())
    for training_set in preparation.SETS.values():
        for record in records.records(training_set.make, "any", 50, 1, glyphs.training_pool()):
            assert all(set(visual.glyphs) <= allowed for visual in record.visuals)


def test_another_seed_gives_other_images(tmp_path: Path):
    training_set, pool = preparation.SETS["mammoth_si"], glyphs.training_pool()
    for seed in (7, 8):
        made = [*records.records(training_set.make, "mammoth_si", 3, seed, pool)]
        training_set.write(made, tmp_path / str(seed))
    one, other = (tmp_path / folder / "images_00.tar" for folder in ("7", "8"))
    assert one.read_bytes() != other.read_bytes()


def test_preparing_again_changes_nothing(root: Path):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    preparation.prepare(root, scale=SCALE)
    assert before == {path: path.stat().st_mtime_ns for path in root.rglob("*")}


def test_an_earlier_version_is_written_again_with_the_same_bytes(root: Path, tmp_path: Path):
    copy = tmp_path / "digits"
    copy.mkdir()
    marker = json.loads((root / preparation.MARKER).read_text())
    marker["identity"]["version"] -= 1
    (copy / preparation.MARKER).write_text(json.dumps(marker))
    preparation.update(copy)
    files = {path.relative_to(root) for path in root.rglob("*") if path.is_file()}
    assert {path.relative_to(copy) for path in copy.rglob("*") if path.is_file()} == files
    for file in files:
        assert (copy / file).read_bytes() == (root / file).read_bytes(), file


def test_other_files_are_not_updated(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("precious")
    preparation.update(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_folder_with_other_files_is_left_unchanged(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="not a built-in data set"):
        preparation.prepare(tmp_path, scale=SCALE)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_llava_pretrain_layout(root: Path):
    listed = json.loads((root / "llava_pretrain/annotations.json").read_text())
    for record in listed:
        assert Image.open(root / "llava_pretrain/images" / record["image"]).format == "JPEG"
    _check_conversations(listed, images=1)


@pytest.mark.parametrize("name", ["mammoth_si", "mammoth_ov"])
def test_mammoth_vl_layout(root: Path, name: str):
    listed = json.loads((root / f"{name}/annotations.json").read_text())
    members: dict[str, bytes] = {}
    for archive in (root / name).glob("*.tar"):
        with tarfile.open(archive) as tar:
            members |= {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    assert {path for record in listed for path in _paths(record)} == set(members)
    for record in listed:
        _check_conversations([record], images=len(_paths(record)))
        for path in _paths(record):
            frames = getattr(Image.open(io.BytesIO(members[path])), "n_frames", 1)
            assert (frames > 1) == ("video" in record)


def test_one_vision_mixes_all_kinds_of_sample(root: Path):
    listed = json.loads((root / "mammoth_ov/annotations.json").read_text())
    assert any("video" in record for record in listed)
    assert any(isinstance(record.get("image"), list) for record in listed)
    assert any(isinstance(record.get("image"), str) for record in listed)
    assert any("image" not in record and "video" not in record for record in listed)


def test_visual_web_instruct_layout(root: Path):
    lines = (root / "visualwebinstruct/annotations.jsonl").read_text().splitlines()
    listed = [json.loads(line) for line in lines]
    with zipfile.ZipFile(root / "visualwebinstruct/images.zip") as archive:
        assert {record["image"] for record in listed} == set(archive.namelist())
    _check_conversations(listed, images=1)
    assert all("Answer: " in turn["value"] for record in listed for turn in record["conversations"][1::2])


def test_llava_next_layout(root: Path):
    (file,) = (root / "llava_next").glob("*.parquet")
    listed = pq.read_table(file).to_pylist()
    _check_conversations(listed, images=1)
    for record in listed:
        assert Image.open(io.BytesIO(record["image"]["bytes"])).format == "PNG"


def test_every_training_set_is_a_source_in_the_settings():
    assert set(load(["stage=si", "model=tiny", "data=digits"]).data.sources) == set(preparation.SETS)


def test_each_half_has_held_out_questions_of_every_type(root: Path):
    asked = held_out(root)
    for split in Split:
        assert Counter(item["type"] for item in asked if item["split"] == split) == records.HELD_OUT
    assert len({item["id"] for item in asked}) == len(asked)
    for item in asked:
        assert all((root / "held_out/images" / path).is_file() for path in _paths(item))
        assert questions.is_correct(item["type"], item["answer"], item["answer"])
        assert item["question"].count("<image>") == 0


def test_canvases_need_different_tile_grids():
    grids = {view_count(VisualKind.tiled, s.width, s.height, GEOMETRY) for s in some_scenes()}
    assert grids >= {2, 3, 4, 5}


def test_reading_order_is_from_left_to_right():
    for scene in some_scenes():
        for before, after in zip(scene.placed, scene.placed[1:], strict=False):
            assert before.left + before.width <= after.left + 1


def test_digits_are_dark_on_light_and_light_on_dark():
    darker = [sum(scene.ink) < sum(scene.paper) for scene in some_scenes()]
    assert 0.3 < np.mean(darker) < 0.7
    assert all(abs(sum(scene.ink) - sum(scene.paper)) > 60 for scene in some_scenes())


def test_ink_is_within_the_boxes_of_the_scene():
    for scene in some_scenes(30):
        far = np.abs(np.asarray(scenes.paint(scene), dtype=float) - scene.paper).mean(-1)
        inside = np.zeros(far.shape, dtype=bool)
        for item in scene.placed:
            inside[item.top : item.top + item.height, item.left : item.left + item.width] = True
        assert far[inside].mean() > far[~inside].mean() + 10


def test_maps_have_one_label_per_visual_token():
    for scene in some_scenes(50):
        merged = maps.merged_map(scene, GEOMETRY)
        size = scene.width, scene.height
        views = len(maps.middle_maps(scene, GEOMETRY))
        tokens = token_count(VisualShape(VisualKind.tiled, *size, views), GEOMETRY)
        assert GEOMETRY.side**2 + merged.shape[0] * (merged.shape[1] + 1) == tokens
        assert views == view_count(VisualKind.tiled, *size, GEOMETRY)
        text = corpus.visual_characters(records.DigitVisual((scene,)), VisualKind.tiled, GEOMETRY)
        assert len(text) == tokens


def test_middles_of_the_base_view_are_in_reading_order():
    seen = [maps.middle_maps(scene, GEOMETRY)[0] for scene in some_scenes(100)]
    read = [labels[labels < maps.EMPTY].tolist() for labels in seen]
    exact = [labels == scene.digits for labels, scene in zip(read, some_scenes(100), strict=True)]
    assert np.mean(exact) > 0.95  # two digits rarely share a patch


def test_the_characters_of_an_image_encode_its_digits_and_their_order():
    for scene in some_scenes(100):
        signs = np.unique(maps.base_map(scene, GEOMETRY))
        found = {divmod(int(sign), 10) for sign in signs[signs != maps.UNCOVERED]}
        assert found <= set(enumerate(scene.digits))


@pytest.mark.parametrize(
    ("kind", "answer", "expected", "right"),
    [
        ("read", "381", "381", True),
        ("read", " 381\n", "381", True),
        ("read", "38", "381", False),
        ("read", "", "381", False),
        ("parity", "odd", "even", False),
        ("arithmetic", "3+8=11, 11+1=12. Answer: 12", "3+8=11, 11+1=12. Answer: 12", True),
        ("arithmetic", "12", "3+8=11, 11+1=12. Answer: 12", True),
        ("arithmetic", "3+8=12, 12+1=13. Answer: 13", "3+8=11, 11+1=12. Answer: 12", False),
        ("arithmetic", "I do not know", "3+8=11. Answer: 11", False),
    ],
)
def test_scoring(kind: str, answer: str, expected: str, right: bool):
    assert questions.is_correct(kind, answer, expected) is right


def test_answers_follow_from_the_digits():
    rng = np.random.default_rng(0)
    digits = [3, 8, 1]
    for _ in range(50):
        assert questions.read(digits, rng)[1] == "381"
        assert questions.count(digits, rng)[1] == "3"
        question, answer = questions.arithmetic(digits, rng)
        wanted = {"Add all": "12", "Add the first": "4", "Subtract": "7"}
        assert answer.endswith(
            next(f"Answer: {n}" for start, n in wanted.items() if question.startswith(start))
        )
        for step in answer.replace("=", "==").split(". ")[0].split(", "):
            assert "=" not in step or eval(step)
        question, answer = questions.parity(digits, rng)
        assert answer == ("even" if "second" in question else "odd")


def test_tokenizer_splits_digits_and_suffixes_and_knows_the_system_prompt(root: Path):
    tokenizer = ChatTokenizer.load(root / "tokenizer")
    assert len(tokenizer.encode(SYSTEM_PROMPT)) == 1
    question, suffix = tokenizer.encode("How many digits are there?"), tokenizer.encode(" /no_think")
    assert tokenizer.encode("How many digits are there? /no_think") == question + suffix
    assert len(suffix) == 1
    assert len(tokenizer.encode("3817")) == 4
    assert tokenizer.decode(tokenizer.encode("3+8=11, naïve <|eot_id|>")) == "3+8=11, naïve <|eot_id|>"
    assert tokenizer.ids == bpe.special_ids()
    assert tokenizer.encode("\n\nfirst")[:1] == tokenizer.encode("\n\n")


def _paths(record: dict) -> list[str]:
    media = record.get("image", record.get("video", []))
    return [media] if isinstance(media, str) else media


def _check_conversations(listed: list[dict], images: int) -> None:
    for record in listed:
        messages = parse_conversation(record["conversations"])
        assert sum(message.content.count("<image>") for message in messages) == images
        assert [m.role for m in messages[1:]] == ["user", "assistant"] * (len(messages) // 2)


def _pictures_on_disk(root: Path) -> list[str]:
    loose = [path for path in root.rglob("*") if path.suffix in {".jpg", ".png", ".gif"}]
    found = [path.relative_to(root).as_posix() for path in loose]
    for archive in root.rglob("*.tar"):
        with tarfile.open(archive) as tar:
            found += [f"{archive.relative_to(root).as_posix()}!{name}" for name in tar.getnames()]
    for archive in root.rglob("*.zip"):
        with zipfile.ZipFile(archive) as opened:
            found += [f"{archive.relative_to(root).as_posix()}!{name}" for name in opened.namelist()]
    for table in root.rglob("*.parquet"):
        paths = [image["path"] for image in pq.read_table(table)["image"].to_pylist()]
        found += [f"{table.relative_to(root).as_posix()}!{path}" for path in paths]
    return found
