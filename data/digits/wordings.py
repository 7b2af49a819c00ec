"""Other wordings of the questions of ``questions``: templates with alternatives, for training sets.

An alternative is written as ``[a|b]``, a blank one as ``[a|]``; alternatives may be nested. The wordings that
held-out questions of the type ``reworded`` have, and wordings that are nearly the same, are left out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data.digits import questions

NEARLY_THE_SAME = 0.75
"""Shared words of two wordings, as a fraction of all their words, from which on they count as the same."""

ATTEMPTS = 20

ASK = "[Tell me|Say|State|Report|Write]"
"""Verbs in front of a question: Tell me how many there are."""
TELL = "[Tell me|Give|Give me|Say|Write|Write down|Name|State|Report|Show|Type]"
"""Verbs in front of a thing: Name the largest digit."""
LIST = "[Read|List|Tell me|Give|Give me|Say|Write|Write down|Name|Report|Spell out|Type]"
IN = "[| in the [picture|image|photo]| in this [picture|image|photo]]"
PLACE = f"[{IN}| shown here| that you see| you can see]"
DIGITS = "[[all|all the|the] [digits|handwritten digits]|[each|every|every single] digit]"
ORDER = "[| from left to right|, left to right| in order|, in order| in reading order]"
LARGEST = "[largest|biggest|highest|greatest]"
SMALLEST = "[smallest|lowest]"
LARGER = "[larger|bigger|greater|higher]"
THINK = "[Think step by step.|Show every step.|Write every step.|Explain each step.]"


class Wordings(NamedTuple):
    """The wordings of the questions that a pattern describes."""

    pattern: re.Pattern[str]
    """Its named groups are inserted into the templates."""
    templates: Sequence[str]


def _wordings(pattern: str, *templates: str) -> Wordings:
    return Wordings(re.compile(pattern), templates)


def _any_of(texts: Sequence[str]) -> str:
    return "|".join(map(re.escape, texts))


def _extreme(adjective: str) -> tuple[str, ...]:
    """Templates that ask for the largest or the smallest digit."""
    return (
        f"[Please |]{TELL} the {adjective} [digit|of all digits|of the digits|one of the digits]{PLACE}.",
        f"[What|Which] is the {adjective} [digit|of all digits|of the digits]{PLACE}?",
        f"Which digit{IN} is the {adjective}?",
        f"Find the {adjective} digit{PLACE}.",
    )


TABLE = (
    _wordings(
        _any_of(questions.READ),
        f"[Please |]{LIST} {DIGITS}{PLACE}{ORDER}.",
        f"[What|Which] [digits|handwritten digits] [are there|can you see|do you see|are shown]{IN}{ORDER}?",
        "What does the [picture|image|photo] [say|show]?",
        "Which digits does [the|this] [picture|image|photo] [show|contain|have]?",
    ),
    _wordings(
        _any_of(questions.COUNT),
        f"[Please |]{ASK} how many digits [there are|you see|you can see|are shown]{IN}.",
        f"How many [digits|handwritten digits] [are there|are shown|do you see|can you see]{IN}?",
        f"[Please |]Count [the|all|all the] digits{PLACE}.",
        f"What is the [number|count|total number] of [digits|all digits]{PLACE}?",
        f"[Please |]{TELL} the [number|count|total number] of [digits|all digits]{PLACE}.",
    ),
    _wordings(r"What is the largest digit\?", *_extreme(LARGEST)),
    _wordings(r"What is the smallest digit\?", *_extreme(SMALLEST)),
    _wordings(
        r"Which is larger, the first digit or the last digit\?",
        f"Which [one |]is {LARGER}[,|:] the first or the last digit?",
        f"Is the first [digit |]or the last digit {LARGER}?",
        f"{ASK} which is {LARGER}, the first digit or the last[ digit|].",
        f"Compare the first and the last digit: which is {LARGER}?",
    ),
    _wordings(
        r"What is the (?P<which>first|second|third|last) digit\?",
        f"[Please |]{LIST} the {{which}} digit{PLACE}.",
        f"[What|Which] digit [is|comes] {{which}}{IN}?",
        f"[What|Which] is the {{which}} digit{PLACE}?",
    ),
    _wordings(
        r"Is the (?P<which>first|second|third|last) digit even or odd\?",
        f"[Please |]{ASK} [whether|if] the {{which}} digit is [even or odd|odd or even].",
        "Is the {which} digit [odd or even|even or odd|an odd or even number|an even or odd number]?",
        "[Odd or even|Even or odd]: the {which} digit?",
        "What is the parity of the {which} digit?",
    ),
    _wordings(
        r"Add all digits\. Think step by step\.",
        f"[Please |][Add|Add up|Sum up] [all|all the|the] digits{PLACE}. {THINK}",
        f"What is the [sum|total] of [all|all the|the] digits{PLACE}? {THINK}",
        f"{TELL} the [sum|total] of [all|all the|the] digits{PLACE}. {THINK}",
    ),
    _wordings(
        r"Add the first and the last digit\. Think step by step\.",
        f"[Please |][Add|Add up|Sum up] the first digit and the last digit{PLACE}. {THINK}",
        f"What is the [sum|total] of the first and the last digit{IN}? {THINK}",
        f"What is the first digit plus the last digit? {THINK}",
    ),
    _wordings(
        r"Subtract the smallest digit from the largest\. Think step by step\.",
        f"[Please |]Subtract the {SMALLEST} digit from the {LARGEST}[ digit|]. {THINK}",
        f"What is the {LARGEST} digit minus the {SMALLEST}[ digit|]? {THINK}",
        f"What is the difference between the {LARGEST} and the {SMALLEST} digit{IN}? {THINK}",
        f"{TELL} the difference between the {LARGEST} and the {SMALLEST} digit{PLACE}. {THINK}",
    ),
    _wordings(
        r"Read the digits of each image\.",
        f"[Please |]{LIST} [all|all the|the] digits [of|in] [each|every] [image|picture|photo].",
        "[What|Which] digits [does each [image|picture|photo] show|are in each [image|picture|photo]]?",
    ),
    _wordings(
        r"How many digits are in the (?P<which>first|second|third) image\?",
        "[Please |]Count [the|all] digits [of|in] the {which} [image|picture|photo].",
        "How many digits does the {which} [image|picture|photo] [show|have]?",
    ),
    _wordings(
        r"Read the digits of the (?P<which>first|second|third) image\.",
        f"[Please |]{LIST} [all|all the|the] digits [of|in] the {{which}} [image|picture|photo].",
        "[What|Which] digits [does the {which} image show|are in the {which} image]?",
    ),
    _wordings(
        r"How many digits are there in all images\?",
        "How many digits [do all images|do the images] [show|have][ together| in total|]?",
        "[Please |]Count [the|all] digits [of|in] all [images|pictures|photos].",
    ),
    _wordings(
        _any_of(questions.WATCH),
        f"[Please |]{LIST} [all|all the|the] digits [of|in] the [video|clip][ in order|, in order|].",
        "[What|Which] digits [does the [video|clip] show|appear in the [video|clip]][ in order|, in order|]?",
    ),
    _wordings(
        r"What is (?P<sum>\d+ [+-] \d+)\?",
        "[Compute|Calculate] {sum}.",
        "[How much|What] is {sum}?",
        "{sum} = ?",
    ),
    _wordings(
        r"What is (?P<sum>\d+( [+-] \d+)+)\? Think step by step\.",
        f"[Compute|Calculate] {{sum}}. {THINK}",
        f"[How much|What] is {{sum}}? {THINK}",
    ),
    _wordings(
        r"Which is larger, (?P<a>\d) or (?P<b>\d)\?",
        f"Which [one |number |]is {LARGER}[,|:] {{a}} or {{b}}?",
        f"{ASK} which is {LARGER}, {{a}} or {{b}}.",
    ),
    _wordings(
        r"Is (?P<a>\d) even or odd\?",
        "Is {a} [odd or even|an odd or even number|an even or odd number]?",
        f"{ASK} [whether|if] {{a}} is [even or odd|odd or even].",
    ),
)


def reworded(question: str, rng: np.random.Generator) -> str:
    """The question in a random wording; as it is if there is no other."""
    for wordings in TABLE:
        if found := wordings.pattern.fullmatch(question):
            return _drawn(wordings, found.groupdict(), rng) or question
    return question


def is_held_out(wording: str) -> bool:
    """Whether a wording is the same, or nearly the same, as one of the held-out type ``reworded``."""
    own = _words(wording)
    held_out = (_words(each) for wordings in questions.REWORDED.values() for each in wordings)
    return any(len(own & other) >= NEARLY_THE_SAME * len(own | other) for other in held_out)


def _drawn(wordings: Wordings, groups: dict[str, str], rng: np.random.Generator) -> str | None:
    for _ in range(ATTEMPTS):
        text = _sentence(_expanded(questions.choose(wordings.templates, rng), rng).format(**groups))
        if not is_held_out(text):
            return text
    return None


def _expanded(template: str, rng: np.random.Generator) -> str:
    """The template with one of each of its alternatives, the innermost first."""
    innermost = re.compile(r"\[([^\[\]]*)\]")
    while innermost.search(template):
        template = innermost.sub(lambda found: questions.choose(found[1].split("|"), rng), template, count=1)
    return template


def _sentence(text: str) -> str:
    """The text with the verb behind Please in lower case."""
    return re.sub(r"^Please ([A-Z])", lambda found: f"Please {found[1].lower()}", text)


def _words(wording: str) -> set[str]:
    return set(re.findall(r"\w+", wording.lower()))
