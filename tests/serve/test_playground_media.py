"""Images and videos in the playground: how they come in, what their thumbnails show, and what is sent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx2 as httpx
import pytest
from playwright.sync_api import expect

from serve.playground import FOLDER
from tests.serve.apis import LocalEngines, serving, settings_of
from tests.serve.browser import Playground
from tests.serve.images import encoded, sample_image, uri

PNG = encoded(sample_image())
CLIP = (FOLDER / "examples" / "clip.webm").read_bytes()
HOW = pytest.mark.parametrize("how", ["choose", "drop", "drop beside", "paste"])

browser_test = pytest.mark.browser


@browser_test
@HOW
def test_images_come_in_and_leave_again(playground: Playground, how: str):
    playground.give(how, "a.png", "image/png", PNG)
    expect(playground.page.locator(".thumbs img")).to_have_count(1)
    playground.give(how, "b.png", "image/png", PNG)
    playground.button("Remove image 2, b.png").click()
    playground.ask("What is this?")
    playground.finished()
    image, question = playground.sent[0]["messages"][0]["content"]
    assert image["image_url"]["url"] == uri(PNG)
    assert question["text"] == "What is this?"
    playground.give(how, "notes.txt", "text/plain", b"nothing")
    expect(playground.page.get_by_role("alert")).to_have_text("notes.txt: not an image or a video.")


@browser_test
@HOW
def test_a_video_comes_in_and_its_thumbnail_plays(playground: Playground, how: str):
    playground.give(how, "a.webm", "video/webm", CLIP)
    clip = playground.page.locator(".thumbs video")
    expect(clip).to_have_js_property("videoWidth", 40)
    expect(clip).to_have_js_property("paused", True)
    playground.button("Play video 1, a.webm").click()
    expect(clip).to_have_js_property("paused", False)
    playground.button("Pause video 1, a.webm").click()
    expect(clip).to_have_js_property("paused", True)
    playground.button("Remove video 1, a.webm").click()
    expect(clip).to_have_count(0)


@browser_test
def test_a_video_that_the_browser_cannot_play_is_shown_by_its_name(playground: Playground):
    playground.give("choose", "a.avi", "video/avi", b"RIFF")
    expect(playground.page.locator(".thumbs .unplayable")).to_have_text("a.avi")
    expect(playground.button("Play video 1, a.avi")).to_have_count(0)


@browser_test
def test_the_clip_of_the_example_is_answered_as_a_plain_request_is(playground: Playground, api: str):
    playground.button("Watch a clip").click()
    expect(playground.page.locator(".thumbs video")).to_have_count(1)
    playground.button("Ask").click()
    (card,) = playground.finished()
    body = playground.sent[0]
    video, question = body["messages"][0]["content"]
    assert video == {"type": "video_url", "video_url": {"url": uri(CLIP, "video/webm")}}
    assert "video" in question["text"]
    whole = {name: value for name, value in body.items() if not name.startswith("stream")}
    answer = httpx.post(f"{api}/v1/chat/completions", json=whole, timeout=60).json()
    assert card.locator(".canvas").text_content() == answer["choices"][0]["message"]["content"]


@browser_test
def test_a_server_without_videos_is_offered_none(
    open_page: Callable[..., Playground], model_folder: Path, engines: LocalEngines
):
    with serving(settings_of(model_folder, media__videos=0), engines) as address:
        playground = open_page(address)
        expect(playground.page.get_by_text("Add images, or drop")).to_be_visible()
        expect(playground.button("Watch a clip")).to_have_count(0)
        playground.give("paste", "a.webm", "video/webm", CLIP)
        expect(playground.page.get_by_role("alert")).to_have_text("a.webm: not an image.")
