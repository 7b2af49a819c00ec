"""Videos in requests over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from tests.lladav.inputs.recorded import KINDS, video
from tests.serve.apis import NAME, LocalEngines, serving, settings_of
from tests.serve.images import uri

FRAMES = 6
POOLED = 2
"""Rows and columns of visual tokens of a frame of the test model; each row ends with a newline."""


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    path.write_bytes(video(KINDS["mp4 h264"], frames=40))
    return path


@pytest.fixture(scope="module")
def client(clip: Path, model_folder: Path, engines: LocalEngines) -> Iterator[httpx.Client]:
    settings = settings_of(model_folder, media__directories=[str(clip.parent)])
    with serving(settings, engines) as address, httpx.Client(base_url=address, timeout=60) as made:
        yield made


def ask(client: httpx.Client, *urls: str, **given: Any) -> httpx.Response:
    videos = [{"type": "video_url", "video_url": {"url": url}} for url in urls]
    content = [*videos, {"type": "text", "text": "What happens?"}]
    body = {"model": NAME, "messages": [{"role": "user", "content": content}], "max_tokens": 8, **given}
    return client.post("/v1/chat/completions", json=body)


def prompt_tokens(response: httpx.Response) -> int:
    assert response.status_code == 200, response.text
    return response.json()["usage"]["prompt_tokens"]


def test_a_video_counts_as_the_tokens_of_its_frames(client: httpx.Client, clip: Path) -> None:
    text = prompt_tokens(ask(client))
    frames = {"media_io_kwargs": {"video": {"num_frames": FRAMES}}}
    few = prompt_tokens(ask(client, uri(clip.read_bytes(), "video/mp4"), **frames))
    tokens = few - text - 1  # the line end behind the mark
    assert tokens == FRAMES * POOLED * (POOLED + 1)
    whole = prompt_tokens(ask(client, f"file://{clip}"))
    assert whole - text - 1 == 32 * POOLED * (POOLED + 1)


def test_data_and_file_give_the_same_answer(client: httpx.Client, clip: Path) -> None:
    answers = [ask(client, url) for url in (uri(clip.read_bytes(), "video/mp4"), f"file://{clip}")]
    first, second = (each.json()["choices"][0]["message"]["content"] for each in answers)
    assert first == second


def test_mistakes_name_the_part(client: httpx.Client, clip: Path) -> None:
    param = "messages[0].content[0].video_url.url"
    outside = ask(client, f"file://{clip.parent}/../clip.mp4").json()["error"]
    assert (outside["code"], outside["param"]) == ("file_refused", param)
    many = ask(client, *[f"file://{clip}"] * 2).json()["error"]
    assert (many["code"], many["param"]) == ("too_many_videos", param.replace("content[0]", "content[1]"))


@pytest.mark.parametrize(
    ("sampling", "status", "param"),
    [
        ({"video": {"num_frames": 33}}, 400, "media_io_kwargs.video.num_frames"),
        ({"video": {"fps": 2}}, 400, "media_io_kwargs.video.fps"),
        ({"video": None}, 200, None),
        (None, 200, None),
    ],
)
def test_the_sampling_of_frames_is_checked(
    client: httpx.Client, sampling: Any, status: int, param: str | None
) -> None:
    response = ask(client, media_io_kwargs=sampling)
    assert (response.status_code, response.json().get("error", {}).get("param")) == (status, param)
