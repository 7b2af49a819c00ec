"""Work is bounded by counted steps: for each automaton, and for all that one structure needs."""

from __future__ import annotations

import contextlib
import json
import random
from pathlib import Path
from typing import Any

import pytest

from lladav.inputs.chat import ChatTokenizer
from lladav.structured import compiling
from lladav.structured.budget import Budget, BudgetExceeded
from lladav.structured.compiling import Structure, StructureKind, StructureSpec, compile_structure
from lladav.structured.errors import SchemaError
from lladav.structured.forms import StringForm
from lladav.structured.languages.building import Automata
from lladav.structured.languages.vocabulary import Vocabulary
from tests.lladav.structured.untrained import json_spec
from tests.lladav.structured.walks import random_walk

TOKENIZER = ChatTokenizer.load(Path(__file__).parents[2] / "golden" / "tokenizer")
HARD = r"^(?:\S+\s+){0,%d}\S+$"
"""Many states, so it takes more than a tenth of the steps of a structure."""
ENDLESS = "^(?=.*a.{20}$)[ab]{40}$"
"""Too many states, so it is refused after many steps."""


def test_the_steps_of_a_part_count_for_the_whole():
    whole = Budget(10, "whole")
    part = Budget(5, "part", whole)
    part.spend(5)
    assert (part.spent, whole.spent) == (5, 5)
    with pytest.raises(BudgetExceeded, match="part") as raised:
        part.spend(2)
    assert raised.value.budget is part
    with pytest.raises(BudgetExceeded, match="whole") as raised:
        Budget(100, "other part", whole).spend(4)
    assert raised.value.budget is whole


def test_a_budget_that_is_lifted_is_never_exceeded():
    budget = Budget(1, "few")
    budget.lift()
    budget.spend(10**9)


def form(pattern: str) -> StringForm:
    return StringForm(patterns=(pattern,))


def steps_of(pattern: str, vocabulary: Vocabulary) -> int:
    """Steps that a structure is charged for a pattern, accepted or not."""
    budget = Budget(10**9, "")
    with contextlib.suppress(SchemaError):
        Automata(vocabulary, budget).string(form(pattern), quoted=True)
    return budget.spent


@pytest.fixture
def new_vocabulary() -> Vocabulary:
    """A vocabulary for which nothing is built yet."""
    return Vocabulary([bytes([byte]) for byte in range(256)])


@pytest.mark.parametrize("pattern", ["^a*$", HARD % 20, ENDLESS, "(", "a^"])
def test_a_kept_automaton_or_refusal_takes_the_steps_of_a_new_one(pattern: str, new_vocabulary: Vocabulary):
    first = steps_of(pattern, new_vocabulary)
    assert steps_of(pattern, new_vocabulary) == first > 0


def test_an_automaton_counts_once_for_a_structure(new_vocabulary: Vocabulary):
    automata = Automata(new_vocabulary, budget := Budget(10**9, ""))
    first, spent = automata.string(form("^a*$"), quoted=True), budget.spent
    assert automata.string(form("^a*$"), quoted=True) is first
    assert budget.spent == spent


def test_what_one_structure_cannot_afford_is_not_refused_to_others(new_vocabulary: Vocabulary):
    steps = steps_of("^b*$", Vocabulary(new_vocabulary.token_bytes))
    for _ in range(2):
        poor = Automata(new_vocabulary, Budget(steps - 1, "whole"))
        with pytest.raises(BudgetExceeded, match="whole"):
            poor.string(form("^b*$"), quoted=True)
        with pytest.raises(BudgetExceeded, match="whole"):
            poor.string(form("^c$"), quoted=True)
    assert Automata(new_vocabulary, Budget(steps, "whole")).string(form("^b*$"), quoted=True)


def test_automata_for_decoding_only_have_their_own_budgets(new_vocabulary: Vocabulary):
    automata = Automata(new_vocabulary, Budget(0, "whole"))
    automata.finish()
    assert automata.string(form("^b*$"), quoted=True)
    with pytest.raises(SchemaError, match="too complex"):
        automata.string(form(ENDLESS), quoted=True)


def record(number: int, required: bool, title: str) -> dict[str, Any]:
    """An object with a property that is always simple, then some with hard patterns."""
    hard = {f"p{n}": {"type": "string", "pattern": HARD % (n + 12)} for n in range(number)}
    return {
        "title": title,
        "type": "object",
        "properties": {"simple": {"type": "integer"}, **hard},
        "required": ["simple", *hard] if required else ["simple"],
        "additionalProperties": False,
    }


@pytest.fixture
def spent(monkeypatch: pytest.MonkeyPatch) -> list[Budget]:
    """The budgets of structures that are compiled."""
    made = list[Budget]()

    class Recorded(Budget):
        def __init__(self, steps: float, reason: str) -> None:
            super().__init__(steps, reason)
            made.append(self)

    monkeypatch.setattr(compiling, "Budget", Recorded)
    return made


def compiled(schema: Any, **settings: Any) -> Structure:
    return compile_structure(json_spec(schema, **settings), TOKENIZER, 100_000)


def test_many_hard_patterns_are_refused_after_counted_steps(spent: list[Budget]):
    """With new and with kept automata, and with the same words."""
    refusals = set[tuple[str, str]]()
    for title in ("new", "kept"):
        with pytest.raises(SchemaError, match="makes the schema too complex") as raised:
            compiled(record(400, True, title))
        refusals.add((raised.value.path, raised.value.code))
    ((path, code),) = refusals
    assert path.startswith("#/properties/p")
    assert code == "unsupported_schema"
    assert all(budget.spent < 1.1 * compiling.MAX_STEPS for budget in spent)


def test_optional_parts_that_are_too_many_are_dropped(spent: list[Budget]):
    written = set[tuple[str, ...]]()
    for title in ("new", "kept"):
        structure = compiled(record(400, False, title), all_properties=True)
        answer = json.loads(random_walk(structure.outline, TOKENIZER, random.Random(0)).text)
        written.add(tuple(answer))
    (names,) = written
    assert 3 < len(names) < 400
    assert names == ("simple", *(f"p{n}" for n in range(len(names) - 1)))
    assert all(budget.spent < 1.1 * compiling.MAX_STEPS for budget in spent)


def test_what_is_required_is_compiled_before_what_is_optional():
    schema = record(400, False, "the last one is required")
    schema["properties"] |= {"last": {"type": "string", "pattern": "^(required|needed)$"}}
    schema["required"] = ["last"]
    assert compiled(schema).min_tokens


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        (StructureKind.choice, json.dumps([f"text number {n}" for n in range(200_000)])),
        (StructureKind.regex, ENDLESS),
    ],
)
def test_texts_and_expressions_are_bounded(kind: StructureKind, source: str):
    with pytest.raises(SchemaError, match="too complex"):
        compile_structure(StructureSpec(kind, source), TOKENIZER, 1000)
