"""The playground in a headless browser, with what it asked for and what it complained of.

The page's policy forbids ``eval`` to Playwright, too: ``wait_for_function`` fails on it, ``expect`` does not.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Locator,
    Page,
    Request,
    Route,
    expect,
    sync_playwright,
)

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WITHIN_MS = 30_000
LOCAL = {"data", "blob"}
"""Schemes that ask nobody."""
REFUSED = re.compile(r"Failed to load resource: the server responded with a status of 4\d\d")
"""Chromium's own line about an answer that the page shows."""


WATCH = """() => {
  window.seen = [];
  const places = (state) => document.querySelectorAll(`.canvas .${state}`).length;
  new MutationObserver(() => window.seen.push({
    masked: places("masked"),
    filled: places("revealed") + places("committed"),
    top: scrollY + (document.querySelector(".canvas")?.getBoundingClientRect().top ?? NaN),
  })).observe(document.querySelector(".answers"), {subtree: true, childList: true, characterData: true});
}"""
TRANSFER = """([name, type, text]) => {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, {type}));
  return transfer;
}"""
PASTE = "(clipboardData) => document.dispatchEvent(new ClipboardEvent('paste', {clipboardData}))"


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A browser without a window; skips the test where there is none.

    Playwright runs an event loop in this thread for as long as the block lasts: ``asyncio.run`` fails in it.
    """
    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
        found = next(filter(None, map(shutil.which, NAMES)), own)
        if not Path(found).exists():
            pytest.skip(f"no browser: none of {', '.join(NAMES)} is there, nor Playwright's own")
        expect.set_options(timeout=WITHIN_MS)
        browser = playwright.chromium.launch(executable_path=found)
        yield browser
        browser.close()


class Playground:
    """An open page."""

    def __init__(self, page: Page, address: str) -> None:
        self.page, self.address = page, address
        self.sent: list[dict[str, Any]] = []
        """Bodies of requests, in order."""
        self.headers: list[dict[str, str]] = []
        """Their headers."""
        self.strangers: list[str] = []
        """What was asked of other hosts."""
        self.complaints: list[str] = []
        """What was written to the console: errors, and violations of the policy among them."""
        page.set_default_timeout(WITHIN_MS)
        page.on("request", self._on_request)
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(address)

    def _on_request(self, request: Request) -> None:
        url = urlsplit(request.url)
        if url.scheme not in LOCAL and url.netloc != urlsplit(self.address).netloc:
            self.strangers.append(request.url)
        if request.method == "POST":
            self.sent.append(_body(request))
            self.headers.append(request.headers)

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"} and not REFUSED.match(message.text):
            self.complaints.append(message.text)

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    def set(self, **knobs: str) -> None:
        """Fill in fields of the settings."""
        if not self.page.locator("details[open] > summary", has_text="Settings").count():
            self.page.get_by_text("Settings", exact=True).click()
        for name, value in knobs.items():
            self.page.locator(f"input[name={name}]").fill(value)

    def never_end(self) -> None:
        """Have all of the canvas filled with text."""
        self.also_send(ignore_eos=True)

    def also_send(self, **fields: Any) -> None:
        """Add fields to requests which the page has no control for."""

        def go_on(route: Route, request: Request) -> None:
            route.continue_(post_data={**_body(request), **fields})

        self.page.route("**/v1/chat/completions", go_on)

    def write(self, label: str, text: str) -> None:
        """Fill in a field that holds JSON."""
        field = self.page.get_by_label(label, exact=True)
        if not field.is_visible():
            self.page.locator("summary").get_by_text(label, exact=True).click()
        field.fill(text)

    def ask(self, question: str) -> None:
        """Write a question and send it."""
        self.page.get_by_label("Question", exact=True).fill(question)
        self.page.locator("#run").click()

    def finished(self, status: str = "done", cards: int = 1) -> list[Locator]:
        """The cards of the answers, once all have ended so."""
        expect(self.page.locator(f".card.{status}")).to_have_count(cards)
        return self.page.locator(".card").all()

    def give(self, how: str, name: str, media_type: str, content: bytes) -> None:
        """Bring a file: choose, paste, drop on the field for media, or drop beside it."""
        if how == "choose":
            file: Any = {"name": name, "mimeType": media_type, "buffer": content}
            self.page.set_input_files("input[type=file]", file)
            return
        transfer = self.page.evaluate_handle(TRANSFER, [name, media_type, base64.b64encode(content).decode()])
        if how == "paste":
            self.page.evaluate(PASTE, transfer)
            return
        place = ".drop" if how == "drop" else ".answers"
        self.page.dispatch_event(place, "drop", {"dataTransfer": transfer})

    def copied(self, label: str) -> str:
        """What a button for copying leaves in the clipboard."""
        self.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.button(label).click()
        expect(self.button("Copied").first).to_be_visible()
        return self.page.evaluate("navigator.clipboard.readText()")

    def watch(self) -> None:
        """Begin to note every state of the answers for ``seen``."""
        self.page.evaluate(WATCH)

    def seen(self) -> list[dict[str, float]]:
        """Places that were masked and filled, and the top of the canvas, after each change."""
        return self.page.evaluate("seen")

    def overflow(self) -> int:
        """Pixels by which the page is wider than its window."""
        return self.page.evaluate("document.documentElement.scrollWidth - innerWidth")


def _body(request: Request) -> dict[str, Any]:
    body = request.post_data_json
    assert isinstance(body, dict)
    return body


def figures(card: Locator) -> dict[str, str]:
    """The figures of an answer by their names."""
    names, values = card.locator("dt").all_inner_texts(), card.locator("dd").all_inner_texts()
    return dict(zip(names, values, strict=True))


def values(table: Locator) -> dict[str, str]:
    """The JSON texts of the values in a table by their paths; their confidences are probabilities."""
    rows = [row.locator("th, td").all_inner_texts() for row in table.locator("tbody tr").all()]
    assert all(0 <= float(confidence) <= 1 for _, _, confidence in rows)
    return {path: text for path, text, _ in rows}


def scalars(value: Any, path: str = "") -> dict[str, str]:
    """The JSON texts of the scalars in a value by their paths."""
    if isinstance(value, dict):
        members = {f"{path}.{name}".lstrip("."): each for name, each in value.items()}
    elif isinstance(value, list):
        members = {f"{path}[{index}]": each for index, each in enumerate(value)}
    else:
        return {path: json.dumps(value, ensure_ascii=False)}
    return {name: text for inner, each in members.items() for name, text in scalars(each, inner).items()}
