"""The accessibility of the playground: axe-core finds no violation in any state of the page."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from serve.playground import FOLDER
from tests.serve.browser import Playground

WIDTHS = {"wide": 1280, "narrow": 390}
OPTIONS = {"resultTypes": ["violations"], "rules": {"target-size": {"enabled": True}}}
"""All rules of axe-core that are on by default, and the size of targets of WCAG 2.2."""


def opened(playground: Playground) -> None:
    expect(playground.page.locator(".model")).to_be_visible()


def filled_in(playground: Playground) -> None:
    """All parts of the form are visible, with a notice and thumbnails of an image and a video."""
    playground.set(seed="1")
    playground.page.get_by_label("Reveal by").select_option("threshold")
    playground.button("Ask").click()
    expect(playground.page.get_by_role("alert")).to_be_visible()
    playground.button("Call a tool").click()
    expect(playground.page.get_by_label("Tool choice")).to_be_visible()
    playground.write("JSON schema", "{}")
    playground.give("choose", "clip.webm", "video/webm", (FOLDER / "examples" / "clip.webm").read_bytes())
    expect(playground.page.locator(".thumbs li")).to_have_count(2)


def answered(playground: Playground) -> None:
    playground.button("Several images").click()
    playground.button("Ask").click()
    playground.finished()


def form_answered(playground: Playground) -> None:
    playground.set(temperature="2")
    playground.button("Fill in a form").click()
    playground.button("Ask").click()
    playground.finished()
    expect(playground.page.locator(".values")).to_be_visible()


def called(playground: Playground) -> None:
    """Calls of tools, and a warning."""
    playground.also_send(user="x")
    playground.button("Call a tool").click()
    playground.page.get_by_label("Tool choice").select_option("required")
    playground.set(temperature="5", max_tokens="128")
    playground.button("Ask").click()
    playground.finished()
    expect(playground.page.locator(".values").first).to_be_visible()
    expect(playground.page.get_by_label("Warnings")).to_be_visible()


def compared(playground: Playground) -> None:
    playground.page.get_by_label("Compare side by side").check()
    playground.page.locator("#intervalB").press("End")
    playground.button("balanced").first.click()
    playground.ask("What is this?")
    playground.finished(cards=2)


def stopped(playground: Playground) -> None:
    """Part of the canvas is masked, another part revealed, another committed."""
    playground.set(max_tokens="512", temperature="5")
    playground.never_end()
    playground.ask("What is this?")
    expect(playground.page.locator(".canvas .committed:visible").first).to_be_visible()
    playground.button("Stop").click()
    playground.finished("stopped")


def refused(playground: Playground) -> None:
    playground.set(max_tokens="0")
    playground.ask("What is this?")
    playground.finished("failed")


STATES = (opened, filled_in, answered, form_answered, called, compared, stopped, refused)


@pytest.mark.browser
@pytest.mark.parametrize("reach", STATES)
def test_no_state_of_the_page_violates_a_rule(
    api: str, open_page: Callable[..., Playground], reach: Callable[[Playground], None]
):
    playground = open_page(api, reduced_motion="reduce")  # colours do not fade
    reach(playground)
    for scheme in ("light", "dark"):
        for name, width in WIDTHS.items():
            playground.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            playground.page.set_viewport_size({"width": width, "height": 844})
            found = Axe().run(playground.page, options=OPTIONS)
            assert found.violations_count == 0, f"{scheme}, {name}: {found.generate_report()}"
