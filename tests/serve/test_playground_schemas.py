"""The playground with a JSON schema: the form fills in, and its fields are listed with their confidence."""

from __future__ import annotations

import json

import jsonschema
import pytest
from playwright.sync_api import expect

from tests.serve.browser import Playground, scalars, values

browser_test = pytest.mark.browser


@browser_test
def test_a_form_fills_in_and_its_fields_are_listed_with_their_confidence(playground: Playground):
    playground.set(seed="3", temperature="2")
    playground.button("Fill in a form").click()
    playground.watch()
    playground.button("Ask").click()
    (card,) = playground.finished()
    schema = playground.sent[0]["response_format"]["json_schema"]["schema"]
    answer = json.loads(card.locator(".canvas").text_content() or "")
    jsonschema.validate(answer, schema)
    expect(card.locator(".values .status")).to_have_text("✓ fits the schema")
    assert values(card.locator(".values")) == scalars(answer)
    shown = [each["filled"] for each in playground.seen() if each["masked"]]
    assert shown[0] > 0, "the skeleton is on the canvas from the beginning"


@browser_test
def test_a_schema_that_is_not_json_is_not_sent(playground: Playground):
    playground.write("JSON schema", "{")
    playground.ask("What is this?")
    expect(playground.page.get_by_role("alert")).to_contain_text("The schema is not JSON")
    playground.write("JSON schema", "")
    playground.ask("What is this?")
    playground.finished()
    (sent,) = playground.sent
    assert "response_format" not in sent


@browser_test
@pytest.mark.parametrize(
    ("answer", "fields", "fits"),
    [
        (
            '{"a": {"b\\"]": ["x, }", -1.5e3, []]}, "c": null}',
            [['a.b"][0]', '"x, }"'], ['a.b"][1]', "-1.5e3"], ["c", "null"]],
            True,
        ),
        ("[true]", [["[0]", "true"]], False),
        ("3", [["", "3"]], False),
        ('{"a"', [], False),
    ],
)
def test_the_scalars_of_an_answer_are_found(
    playground: Playground, answer: str, fields: list[list[str]], fits: bool
):
    find = """async (answer) => {
      const {scalarsOf, mismatchOf} = await import("/playground/schema.js");
      const found = scalarsOf(answer).map(({path, start, end}) => [path, answer.slice(start, end)]);
      return [found, mismatchOf(answer, {type: "object"}) === null];
    }"""
    assert playground.page.evaluate(find, answer) == [fields, fits]
