"""Answers to questions of tasks: those of the engine to the same prompts, in the order of the questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from PIL import Image

from lladav.checkpoint import open_model
from lladav.decoding.engine import decode
from lladav.decoding.params import DecodingOptions
from lladav.errors import UserError
from lladav.inputs.chat import SYSTEM_PROMPT, ChatTokenizer, Message, encode_prompt
from lladav.inputs.clips import read_clip
from lladav.inputs.images import ViewGeometry, prepare_image
from lladav.inputs.samples import Sample, Visual, VisualKind
from lladav.model.llada_v import LLaDAV
from tests.lladav.build import noise_image
from train.benchmarks import task_model
from train.benchmarks.task_model import (
    TaskAnswers,
    TaskModel,
    TaskModelArguments,
    TaskQuestion,
    released_form,
)

LENGTH = {"gen_length": 8}
ONE, OTHER = noise_image(40, 20), noise_image(20, 30, seed=1)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> ChatTokenizer:
    return ChatTokenizer.load(folder)


@pytest.fixture(scope="module")
def model(folder: Path) -> LLaDAV:
    return open_model(folder, torch.float32)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.gif"
    first, *rest = [Image.new("RGB", (30, 20), color) for color in ("red", "green", "blue")]
    first.save(path, save_all=True, append_images=rest)
    return path


def made(folder: Path, **given: Any) -> TaskModel:
    return TaskModel(TaskModelArguments.of({"model": str(folder), "dtype": "float32", **given}))


def asked(text: str, *media: Any, document: int = 0, **settings: Any) -> TaskQuestion:
    return TaskQuestion("mme", str(document), text, lambda: media, settings)


def prompted(content: str, visuals: Sequence[Visual], tokenizer: ChatTokenizer) -> Sample:
    """A prompt, spelled out."""
    messages = [Message("system", SYSTEM_PROMPT), Message("user", content)]
    return Sample("mme/0", encode_prompt(messages, tokenizer), list(visuals))


def tiled(image: Image.Image, model: LLaDAV) -> Visual:
    return prepare_image(image, VisualKind.tiled, model.geometry)


def padded(image: Image.Image, model: LLaDAV) -> Visual:
    return prepare_image(image, VisualKind.padded, model.geometry)


def frames(path: Path, model: LLaDAV) -> Visual:
    return read_clip(path, model.config.images.inference_frames, ViewGeometry.of(model.config))


@pytest.mark.parametrize("think", [None, "think", "no_think"])
def test_prompts_are_those_of_the_released_evaluation(
    folder: Path, model: LLaDAV, tokenizer: ChatTokenizer, clip: Path, think: str | None
) -> None:
    suffix = f" /{think}" if think else ""
    cases: list[tuple[list[Any], str, list[Visual]]] = [
        ([], "What?", []),
        ([ONE], "<image>\nWhat?", [tiled(ONE, model)]),
        ([ONE, OTHER], "<image> <image>\nWhat?", [padded(each, model) for each in (ONE, OTHER)]),
        ([str(clip)], "<image>\nWhat?", [frames(clip, model)]),
    ]
    options = DecodingOptions.for_chat(tokenizer.ids, max_tokens=8)
    evaluated = made(folder, think_mode=think, batch_size=4, **LENGTH)
    for media, content, visuals in cases:
        (expected,) = decode(model, [prompted(content + suffix, visuals, tokenizer)], options)
        (found,) = evaluated.answer([asked("What?", *media)]).outcomes
        assert found.text == expected.text(tokenizer.token_bytes)
        assert found.tokens == len(expected.tokens)


def test_marks_in_a_text_stay_where_they_are(folder: Path, model: LLaDAV, tokenizer: ChatTokenizer) -> None:
    content = "<image> or <image>?"
    prompt = prompted(content, [padded(ONE, model), padded(OTHER, model)], tokenizer)
    (expected,) = decode(model, [prompt], DecodingOptions.for_chat(tokenizer.ids, max_tokens=8))
    (found,) = made(folder, **LENGTH).answer([asked(content, ONE, OTHER)]).outcomes
    assert found.text == expected.text(tokenizer.token_bytes)


def test_images_on_lines_of_their_own(folder: Path, model: LLaDAV, tokenizer: ChatTokenizer) -> None:
    visuals = [padded(ONE, model), padded(OTHER, model)]
    prompt = prompted("<image>\n<image>\nWhat?", visuals, tokenizer)
    (expected,) = decode(model, [prompt], DecodingOptions.for_chat(tokenizer.ids, max_tokens=8))
    evaluated = made(folder, image_joint="newline", **LENGTH)
    (found,) = evaluated.answer([asked("What?", ONE, OTHER)]).outcomes
    assert found.text == expected.text(tokenizer.token_bytes)


def many(count: int = 9) -> list[TaskQuestion]:
    """Questions with answers of different lengths."""
    return [
        asked("What is this? " * (n + 1), document=n, gen_length=4 * (1 + n * 5 % 7)) for n in range(count)
    ]


def texts(answers: TaskAnswers) -> list[str]:
    assert not answers.failed
    assert [outcome.index for outcome in answers.outcomes] == list(range(len(answers.outcomes)))
    return [outcome.text for outcome in answers.outcomes]


def test_answers_do_not_depend_on_the_batch_and_keep_their_order(folder: Path) -> None:
    alone = texts(made(folder).answer(many()))
    assert len(set(alone)) > 1
    assert texts(made(folder, batch_size=3).answer(many())) == alone
    assert texts(made(folder, batch_size="auto").answer(many())) == alone


@pytest.mark.ray
def test_replicas_in_ray_actors_give_the_same_answers(folder: Path) -> None:
    alone = texts(made(folder, batch_size=2).answer(many()))
    try:
        assert texts(made(folder, batch_size=2, replicas=2).answer(many())) == alone
    finally:
        ray.shutdown()  # the model keeps its Ray until the process ends


def test_a_model_that_predicts_the_next_token(next_token_folder: Path, tokenizer: ChatTokenizer) -> None:
    model = open_model(next_token_folder, torch.float32)
    options = DecodingOptions.for_chat(tokenizer.ids, model.config.prediction, max_tokens=8)
    (expected,) = decode(model, [prompted("<image>\nWho?", [tiled(ONE, model)], tokenizer)], options)
    evaluated = made(next_token_folder, max_tokens=8)
    (found,) = evaluated.answer([asked("Who?", ONE)]).outcomes
    assert found.text == expected.text(tokenizer.token_bytes)
    with pytest.raises(UserError, match=r"^task mme: .*block_length"):
        evaluated.answer([asked("Who?", block_length=8)])


def test_settings_of_the_task_override_those_of_the_model(folder: Path) -> None:
    short, long = (
        made(folder, gen_length=4).answer([asked("Who?"), asked("Who?", document=1, gen_length=16)]).outcomes
    )
    assert short.tokens <= 4 < long.tokens


def test_stop_texts_end_an_answer(folder: Path) -> None:
    (whole,) = made(folder, gen_length=16).answer([asked("Who?")]).outcomes
    stop = whole.text[3:5]
    (cut,) = made(folder, gen_length=16).answer([asked("Who?", until=[stop])]).outcomes
    assert cut.text == whole.text[: whole.text.index(stop)]


def test_throughput_counts_tokens_over_the_whole_time(folder: Path) -> None:
    answers = TaskAnswers(made(folder, **LENGTH).answer([asked("Who?")]).outcomes, seconds=2.0)
    assert answers.throughput.startswith(f"{answers.tokens} tokens that are not EOS in 2.0 s: ")
    assert f"{answers.tokens / 2:.1f} tokens/s" in answers.throughput


class TestFailures:
    """A request without an answer is never scored silently."""

    def test_it_ends_the_evaluation(self, folder: Path):
        with pytest.raises(UserError, match=r"^mme/1: .*none\.mp4"):
            made(folder, **LENGTH).answer([asked("Who?"), asked("Who?", "none.mp4", document=1)])

    def test_or_it_is_marked_and_counted(self, folder: Path):
        questions = [asked("Who?", "none.mp4"), asked("Who?", document=1), asked("x " * 5000, document=2)]
        answers = made(folder, on_error="mark", batch_size=3, **LENGTH).answer(questions)
        assert [outcome.error is None for outcome in answers.outcomes] == [False, True, False]
        assert answers.failed == 2

    def test_settings_are_checked_before_the_first_question_is_decoded(self, folder: Path):
        def unread() -> Sequence[Any]:
            raise AssertionError

        questions = [
            TaskQuestion("mme", "0", "Who?", unread, LENGTH),
            TaskQuestion("ai2d", "0", "Who?", unread, {"gen_length": 8, "gen_steps": 9}),
        ]
        with pytest.raises(UserError, match=r"^task ai2d: decoding: steps 9 are more than max_tokens 8"):
            made(folder).answer(questions)

    def test_mixed_media(self, folder: Path, clip: Path):
        with pytest.raises(UserError, match="either PIL images or paths of videos"):
            made(folder, **LENGTH).answer([asked("Who?", ONE, str(clip))])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"pretrained": "x"}, "model_args: pretrained: unknown argument; choose from model, settings"),
        ({"refresh_intervl": 8}, "did you mean refresh_interval?"),
        ({"replica": 2}, "did you mean replicas?"),
        ({"replicas": 0}, "replicas=0: must be a whole number, 1 or more"),
        ({"frames": "all"}, "frames=all: must be a whole number"),
        ({"batch_size": "0"}, "batch_size=0: must be 1 or more, or auto"),
        ({"batch_size": "-3"}, "batch_size=-3"),
        ({"dtype": "float8"}, "dtype=float8: use one of float32"),
        ({"on_error": "ignore"}, "on_error=ignore: use one of raise, mark"),
        ({"image_joint": "comma"}, "image_joint=comma: use one of blank, newline"),
        ({"remasking": "random"}, "remasking=random is not supported"),
    ],
)
def test_mistakes_in_the_arguments_are_one_line(
    given: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    unused: Callable[..., Any] = lambda *_: pytest.fail("a model was read")  # noqa: E731
    monkeypatch.setattr(task_model, "start_replicas", unused)
    with pytest.raises(UserError) as caught:
        TaskModel(TaskModelArguments.of({"model": "folder", **given}))
    assert says in str(caught.value)


def test_answers_fit_a_schema(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "answer.json").write_text('{"enum": ["yes", "no"]}')
    schema = str(tmp_path / "answer.json")
    asked_twice = [asked("Is it?", until=["y"]), asked("Is it?", ONE, document=1)]
    outcomes = made(folder, schema=schema, batch_size=2, **LENGTH).answer(asked_twice).outcomes
    assert {outcome.text for outcome in outcomes} <= {'"yes"', '"no"'}
    (tmp_path / "answer.json").write_text('{"minLength": 99, "type": "string"}')
    with pytest.raises(UserError, match=r"task mme: model_args: schema=.*answer\.json .* tokens"):
        made(folder, schema=schema, **LENGTH).answer(asked_twice)


def test_a_model_is_needed() -> None:
    with pytest.raises(UserError, match="use --model_args model=FOLDER"):
        TaskModelArguments.of({"refresh_interval": 8})


@pytest.mark.parametrize(
    ("text", "answer"), [("Yes.", "Yes"), (" 5. ", "5."), ("a..", "a."), ("B\n", "B"), (".", ""), ("", "")]
)
def test_an_answer_loses_one_final_full_stop_and_is_stripped(text: str, answer: str) -> None:
    assert released_form(text) == answer
