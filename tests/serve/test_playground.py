"""The playground in a real browser against the real API, and its files without one."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from playwright.sync_api import expect

from serve.auth.keys import hash_of, new_key
from serve.playground import CONTENT_SECURITY_POLICY, FOLDER
from tests.serve.apis import LocalEngines, serving, settings_of
from tests.serve.browser import Playground, figures

OURS = sorted(f for f in FOLDER.rglob("*") if f.is_file() and "vendor" not in f.parts)
TEXTS = [file for file in OURS if file.suffix not in {".png", ".webm"}]
VENDOR = FOLDER / "vendor"

browser_test = pytest.mark.browser


def answer_of(api: str, body: dict[str, Any]) -> dict[str, Any]:
    """The whole answer of a request that was streamed."""
    whole = {name: value for name, value in body.items() if not name.startswith("stream")}
    response = httpx.post(f"{api}/v1/chat/completions", json=whole, timeout=60)
    assert response.status_code == 200, response.text
    return response.json()


@browser_test
def test_an_example_fills_in_to_the_answer_that_a_plain_request_gets(playground: Playground, api: str):
    playground.button("Several images").click()
    expect(playground.page.locator(".thumbs img")).to_have_count(3)
    playground.button("Ask").click()
    (card,) = playground.finished()
    whole = answer_of(api, playground.sent[0])
    assert whole["choices"][0]["message"]["content"].strip()
    assert card.locator(".canvas").text_content() == whole["choices"][0]["message"]["content"]
    assert figures(card)["forwards"] == str(whole["usage"]["forwards"])
    assert float(figures(card)["tokens/s"]) > 0


@browser_test
def test_places_are_filled_one_after_the_other_and_nothing_jumps(playground: Playground):
    playground.set(max_tokens="48", temperature="5")
    playground.never_end()
    playground.watch()
    playground.ask("What is this?")
    playground.finished()
    seen = [each for each in playground.seen() if each["masked"] + each["filled"] == 48]
    masked = [each["masked"] for each in seen]
    assert masked[0] == 48
    assert masked == sorted(masked, reverse=True)
    assert len(set(masked)) > 4
    assert len({each["top"] for each in seen}) == 1


@browser_test
def test_the_slider_decides_what_is_sent_and_the_figures_tell_it(playground: Playground):
    expect(playground.page.get_by_label("Refresh interval")).to_have_value("0")
    playground.page.get_by_label("Refresh interval").press("ArrowRight")
    playground.page.get_by_label("Refresh interval").press("ArrowRight")
    playground.ask("What is this?")
    (card,) = playground.finished()
    assert playground.sent[0]["refresh_interval"] == 3
    told = figures(card)
    assert told["interval"] == "3"
    assert int(told["refreshes"]) + int(told["cached"]) == int(told["forwards"])
    assert int(told["cached"]) > 0


@browser_test
def test_an_effort_takes_the_place_of_the_slider_until_it_moves(playground: Playground):
    playground.button("balanced").click()
    playground.ask("What is this?")
    (card,) = playground.finished()
    assert playground.sent[0]["effort"] == "balanced"
    assert "refresh_interval" not in playground.sent[0]
    assert figures(card)["interval"] == "4"
    playground.page.get_by_label("Refresh interval").press("End")
    expect(playground.button("balanced")).to_have_attribute("aria-pressed", "false")
    playground.button("Ask").click()
    expect(playground.page.get_by_role("heading", name="Refresh every 64 steps")).to_be_visible()
    playground.finished()
    assert playground.sent[1]["refresh_interval"] == 64
    assert "effort" not in playground.sent[1]


@browser_test
def test_a_model_that_predicts_the_next_token_has_no_settings_of_denoising(
    open_page: Callable[..., Playground], next_token_api: str
):
    playground = open_page(next_token_api)
    playground.set(max_tokens="8")
    for label in ("Refresh interval", "Compare side by side", "Block length", "Reveal by"):
        expect(playground.page.get_by_label(label)).to_have_count(0)
    playground.ask("What is this?")
    (card,) = playground.finished()
    assert playground.sent[0]["max_tokens"] == 8
    assert {"refresh_interval", "effort"}.isdisjoint(playground.sent[0])
    whole = answer_of(next_token_api, playground.sent[0])
    assert card.locator(".canvas").text_content() == whole["choices"][0]["message"]["content"]
    assert figures(card)["interval"] == "\N{EN DASH}"
    expect(playground.page.get_by_role("heading", name="Token by token")).to_be_visible()


@browser_test
def test_two_settings_are_compared_side_by_side(playground: Playground):
    playground.page.get_by_label("Compare side by side").check()
    playground.page.locator("#intervalB").press("End")
    playground.button("Read digits").click()
    playground.button("Ask both").click()
    cards = playground.finished(cards=2)
    assert sorted(each["refresh_interval"] for each in playground.sent) == [1, 64]
    assert [figures(card)["interval"] for card in cards] == ["1", "64"]
    assert [figures(card)["differing"] for card in cards] == [
        str(card.locator("mark").count()) for card in cards
    ]
    texts = [card.locator(".canvas").text_content() for card in cards]
    assert (texts[0] == texts[1]) == (not any(card.locator("mark").count() for card in cards))


@browser_test
def test_stop_ends_the_request_and_frees_the_engine(playground: Playground, engines: LocalEngines):
    playground.set(max_tokens="512", temperature="5")
    playground.never_end()
    playground.ask("What is this?")
    expect(playground.page.locator(".canvas .committed:visible").first).to_be_visible()
    assert engines.worker.load.rows_used == 1
    playground.button("Stop").click()
    (card,) = playground.finished("stopped")
    assert card.locator(".status").inner_text() == "stopped"
    assert card.locator(".canvas .committed").count()
    expect(playground.button("Ask")).to_be_visible()
    until = time.monotonic() + 10
    while engines.worker.load.rows_used and time.monotonic() < until:
        time.sleep(0.02)
    assert engines.worker.load.rows_used == 0
    assert len(playground.sent) == 1


@browser_test
def test_a_refusal_is_shown_in_the_words_of_the_api(playground: Playground):
    playground.set(max_tokens="0")
    playground.ask("What is this?")
    (card,) = playground.finished("failed")
    told = card.get_by_role("alert").inner_text()
    assert "max_tokens: Input should be greater than or equal to 1" in told
    assert "400" in told


@browser_test
@pytest.mark.parametrize(
    ("stream", "told"),
    [
        (
            'data: {"error":{"message":"the replica was lost","code":"x"}}\n\ndata: [DONE]\n\n',
            "replica was lost",
        ),
        ('data: {"choices":[]}\n\n', "The connection ended before the answer did"),
    ],
)
def test_what_goes_wrong_in_the_middle_is_shown_too(playground: Playground, stream: str, told: str):
    reply = {"status": 200, "content_type": "text/event-stream", "body": stream}
    playground.page.route("**/v1/chat/completions", lambda route: route.fulfill(**reply))
    playground.ask("What is this?")
    (card,) = playground.finished("failed")
    expect(card.get_by_role("alert")).to_contain_text(told)


@browser_test
def test_a_key_is_asked_for_and_kept_out_of_the_copied_command(
    open_page: Callable[..., Playground], model_folder: Path, engines: LocalEngines
):
    key = new_key()
    settings = settings_of(model_folder, auth="keys", keys=[{"name": "me", "sha256": hash_of(key)}])
    with serving(settings, engines) as address:
        playground = open_page(address)
        expect(playground.page.get_by_role("alert")).to_contain_text("no API key")
        expect(playground.page.get_by_label("API key")).to_be_focused()
        playground.page.keyboard.type(key)
        playground.page.keyboard.press("Enter")
        expect(playground.page.locator(".model")).to_have_text(settings.name)
        playground.ask("What is this?")
        playground.finished()
        assert playground.headers[0]["authorization"] == f"Bearer {key}"
        command = playground.copied("Copy as curl")
    assert "Bearer $LLADAV_API_KEY" in command
    assert key not in command


@browser_test
def test_the_copied_command_asks_the_same_in_a_shell(playground: Playground):
    if not shutil.which("curl"):
        pytest.skip("there is no curl")
    playground.ask("""What's "this"? $HOME `pwd` \\""")
    (card,) = playground.finished()
    answer, command = playground.copied("Copy answer"), playground.copied("Copy as curl")
    assert answer == card.locator(".canvas").text_content()
    done = subprocess.run(["sh"], input=command, capture_output=True, text=True, check=True, timeout=60)
    lines = [line.removeprefix("data: ") for line in done.stdout.splitlines() if line]
    assert lines.pop() == "[DONE]"
    choices = [choice for line in lines for choice in json.loads(line)["choices"]]
    assert "".join(choice["delta"].get("content", "") for choice in choices) == answer


@browser_test
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_narrow_screens_scroll_down_alone(api: str, open_page: Callable[..., Playground], scheme: str):
    playground = open_page(api, viewport={"width": 390, "height": 844}, color_scheme=scheme)
    playground.page.get_by_label("Compare side by side").check()
    playground.button("Several images").click()
    playground.set(max_tokens="512", temperature="5")
    playground.never_end()
    assert playground.overflow() == 0
    playground.button("Ask both").click()
    expect(playground.page.locator(".canvas .committed:visible").first).to_be_visible()
    assert playground.overflow() == 0
    playground.button("Stop").click()
    expect(playground.page.locator(".card.running")).to_have_count(0)
    assert playground.overflow() == 0
    colour = playground.page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (min(map(int, re.findall(r"\d+", colour)[:3])) < 100) == (scheme == "dark")


@browser_test
def test_the_keyboard_is_enough_and_every_control_has_a_name(api: str, open_page: Callable[..., Playground]):
    playground = open_page(api, reduced_motion="reduce")
    page = playground.page
    playground.set()
    named = "(e) => e.labels?.length || e.ariaLabel || (e.tagName === 'BUTTON' && e.textContent.trim())"
    for control in page.locator("input, select, textarea, button").all():
        assert control.evaluate(named), control.evaluate("(e) => e.outerHTML")
    page.keyboard.press("Enter")
    page.get_by_label("Question", exact=True).press_sequentially("a")
    page.keyboard.press("Shift+Enter")
    page.keyboard.press("b")
    page.keyboard.press("Enter")
    (card,) = playground.finished()
    assert playground.sent[0]["messages"][0]["content"][0]["text"] == "a\nb"
    still = "(e) => getComputedStyle(e).transitionDuration"
    assert card.locator(".place").first.evaluate(still) == "0s"


@browser_test
@pytest.mark.parametrize(
    ("tokens", "answer", "texts"),
    [
        (["a", " b", ""], "a b", ["a", " b"]),
        (["x", "\ufffd", "\ufffd", "y"], "xéy", ["x", "é", "y"]),
        (["ab", "cd", "ef"], "abc", ["ab", "c"]),  # a stop text cuts inside a token
        (["\ufffd"], "", []),
        (["\ufffd", "\ufffd", "\ufffd"], "é\ufffd", ["é\ufffd"]),
        (["q"], "other", ["other"]),
    ],
)
def test_the_finished_answer_is_drawn_whatever_its_tokens(
    playground: Playground, tokens: list[str], answer: str, texts: list[str]
):
    draw = """async ([tokens, answer]) => {
      const {piecesOf, newCanvas} = await import("/playground/canvas.js");
      const places = tokens.map((text) => ({text, confidence: 0.5, step: 1}));
      return piecesOf({...newCanvas(), places, answer, finish: "stop"}).map(({text}) => text);
    }"""
    assert playground.page.evaluate(draw, [tokens, answer]) == texts


def test_no_file_is_long_and_none_names_another_host():
    assert all(len(file.read_text(encoding="utf-8").splitlines()) < 400 for file in TEXTS)
    allowed = "http://www.w3.org/2000/svg"  # a name, which nobody asks
    found = {
        file.name: re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", file.read_text("utf-8"))
        for file in TEXTS
    }
    assert {url for urls in found.values() for url in urls} <= {allowed}


def test_every_file_that_is_named_exists_and_every_one_is_named():
    page = (FOLDER / "index.html").read_text(encoding="utf-8")
    linked = {
        FOLDER.parent / "static" / name.removeprefix("playground/")
        for name in re.findall(r'(?:href|src)="([^"]+)"', page)
    }
    waiting, reached = list(linked), {FOLDER / "index.html"}
    while waiting:
        file = waiting.pop()
        assert file.is_file(), file
        reached.add(file)
        if file.suffix == ".js" and file.parent == FOLDER:
            text = file.read_text(encoding="utf-8")
            named = [
                *re.findall(r'from "\./([^"]+)"', text),
                *(f"examples/{n}" for n in re.findall(r'"([\w-]+\.(?:png|webm))"', text)),
            ]
            waiting += [each for name in named if (each := FOLDER / name) not in reached]
    assert set(OURS) <= reached


def test_the_page_keeps_to_its_policy():
    page = (FOLDER / "index.html").read_text(encoding="utf-8")
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", page)


@pytest.mark.parametrize("path", ["/", "/playground/app.js", "/playground/vendor/pico-2.1.1.min.css"])
def test_the_files_come_with_the_policy(api: str, path: str):
    response = httpx.get(f"{api}{path}")
    assert response.status_code == 200
    assert response.headers["content-security-policy"] == CONTENT_SECURITY_POLICY


def test_vendored_files_are_what_their_list_says():
    rows = re.findall(
        r"^\| `(\S+)` \| (\S+) (\S+) \| `\S+` \| MIT, `(\S+)` \| `(\w{64})` \|$",
        (VENDOR / "VENDORED.md").read_text("utf-8"),
        re.MULTILINE,
    )
    for name, package, version, licence, digest in rows:
        assert name.startswith(f"{package.rpartition('/')[2]}-{version}.")
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == digest
        assert "Permission is hereby granted" in (VENDOR / licence).read_text(encoding="utf-8")
        head = (VENDOR / name).read_text(encoding="utf-8")[:300]
        assert version in head or not re.search(r"\d+\.\d+\.\d+", head)
    listed = {"VENDORED.md", *(row[0] for row in rows), *(row[3] for row in rows)}
    assert {file.name for file in VENDOR.iterdir()} == listed
