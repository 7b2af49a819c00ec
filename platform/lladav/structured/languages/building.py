"""Automata over tokens for forms of scalars, for texts and for regular expressions.

A ``SchemaError`` without a path says what is not supported, permits no value, or is too complex.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from lladav.structured.budget import Budget, BudgetExceeded, unlimited
from lladav.structured.errors import SchemaError
from lladav.structured.forms import ConstantForm, JsonValue, NumberForm, StringForm
from lladav.structured.languages.automaton import TokenAutomaton
from lladav.structured.languages.byte_dfa import quoted_dfa, texts_dfa, union_dfa
from lladav.structured.languages.byte_encoding import byte_dfa
from lladav.structured.languages.number_forms import number_dfa
from lladav.structured.languages.strings import matching_dfa, string_language
from lladav.structured.languages.token_classes import automaton_of_sequences, token_automaton
from lladav.structured.languages.vocabulary import Vocabulary

CACHED = 256
"""Automata that the process keeps; a usual one has 1 MB, the largest ones 25 MB."""
MAX_STEPS = 1_000_000
"""Steps to build one automaton."""
TEXT_STEPS = 15
"""Steps to encode a text, besides one for each character."""
ScalarForm: TypeAlias = ConstantForm | NumberForm | StringForm
Build: TypeAlias = Callable[..., TokenAutomaton]


@dataclass
class Attempt:
    """What building an automaton leads to, once it is known, and the steps that it takes."""

    outcome: TokenAutomaton | SchemaError | None = None
    steps: int = 0


class Automata:
    """The automata of a structure, over the tokens of a vocabulary.

    Each has a budget of its own. While the structure is compiled, each also counts for the budget of the
    structure, once and with the same steps whether it is built or another structure has it already: what a
    structure may have depends on nothing but itself.
    """

    def __init__(self, vocabulary: Vocabulary, budget: Budget | None = None) -> None:
        self.budget = budget or unlimited()
        self._vocabulary = vocabulary
        self._counted: dict[Hashable, TokenAutomaton | SchemaError] | None = {}

    def finish(self) -> None:
        """End the compilation of the structure: automata for decoding only have their own budgets."""
        self.budget.lift()
        self._counted = None

    def string(self, form: StringForm, *, quoted: bool) -> TokenAutomaton:
        """The JSON texts of strings, with their quotation marks or without."""
        return self._get(_string, form, quoted)

    def number(self, form: NumberForm) -> TokenAutomaton:
        """The JSON texts of numbers."""
        return self._get(_number, form)

    def regex(self, pattern: str) -> TokenAutomaton:
        """Texts that a regular expression matches as a whole, not as JSON but as they are."""
        return self._get(_regex, pattern)

    def texts(self, texts: Sequence[str]) -> TokenAutomaton:
        """Literal texts, each as the tokenizer encodes it.

        If the tokenizer changes one of the texts, any tokens that spell a text are accepted.
        """
        return self._get(_texts, tuple(dict.fromkeys(texts)))

    def scalars(self, forms: Sequence[ScalarForm]) -> TokenAutomaton:
        """The JSON texts of values of any of the forms; strings have their quotation marks."""
        # Constants are known by their texts, because 1 and true are equal in Python.
        values = (value for form in forms if isinstance(form, ConstantForm) for value in form.values)
        texts = tuple(dict.fromkeys(map(json_text, values)))
        others = tuple(form for form in forms if not isinstance(form, ConstantForm))
        return self._get(_scalars, texts, others) if others else self.texts(texts)

    def _get(self, build: Build, *arguments: Hashable) -> TokenAutomaton:
        key = build, arguments
        if self._counted is None:
            outcome = self._outcome(*key)
        elif (outcome := self._counted.get(key)) is None:
            outcome = self._counted[key] = self._outcome(*key)
        if isinstance(outcome, SchemaError):
            raise outcome.at("")
        return outcome

    def _outcome(self, build: Build, arguments: tuple[Hashable, ...]) -> TokenAutomaton | SchemaError:
        """An automaton or why there is none; raises ``BudgetExceeded`` for the structure."""
        attempt = _attempt(build, arguments, self._vocabulary)
        if attempt.outcome is not None:
            self.budget.spend(attempt.steps)
            return attempt.outcome
        own = Budget(
            MAX_STEPS, "is too complex; use a simpler pattern, shorter limits or fewer values", self.budget
        )
        try:
            outcome = build(*arguments, self._vocabulary, own)
        except SchemaError as error:
            if isinstance(error, BudgetExceeded) and error.budget is self.budget:
                raise
            outcome = error.at("")
        attempt.steps, attempt.outcome = own.spent, outcome  # in this order: threads read the outcome first
        return outcome


@lru_cache(maxsize=CACHED)
def _attempt(build: Build, arguments: tuple[Hashable, ...], vocabulary: Vocabulary) -> Attempt:  # noqa: ARG001 - the key
    return Attempt()


def _string(form: StringForm, quoted: bool, vocabulary: Vocabulary, budget: Budget) -> TokenAutomaton:
    content, max_length = string_language(form, budget)
    texts = byte_dfa(content, budget, escaped=True)
    return token_automaton(quoted_dfa(texts) if quoted else texts, vocabulary, budget, max_length)


def _number(form: NumberForm, vocabulary: Vocabulary, budget: Budget) -> TokenAutomaton:
    return token_automaton(number_dfa(form, budget), vocabulary, budget)


def _regex(pattern: str, vocabulary: Vocabulary, budget: Budget) -> TokenAutomaton:
    return token_automaton(byte_dfa(matching_dfa(pattern, budget), budget, escaped=False), vocabulary, budget)


def _texts(texts: tuple[str, ...], vocabulary: Vocabulary, budget: Budget) -> TokenAutomaton:
    budget.spend(TEXT_STEPS * len(texts) + sum(map(len, texts)))
    encoded = [ids for text in texts if (ids := vocabulary.encode(text)) is not None]
    if len(encoded) == len(texts):
        return automaton_of_sequences(encoded, len(vocabulary), budget)
    return token_automaton(texts_dfa([text.encode() for text in texts], budget), vocabulary, budget)


def _scalars(
    texts: tuple[str, ...], forms: tuple[NumberForm | StringForm, ...], vocabulary: Vocabulary, budget: Budget
) -> TokenAutomaton:
    parts = [texts_dfa([text.encode() for text in texts], budget)] if texts else []
    limits = list[int]()
    for form in forms:
        if isinstance(form, NumberForm):
            parts.append(number_dfa(form, budget))
            continue
        content, max_length = string_language(form, budget)
        parts.append(quoted_dfa(byte_dfa(content, budget, escaped=True)))
        limits += [] if max_length is None else [max_length]
    return token_automaton(union_dfa(parts, budget), vocabulary, budget, min(limits, default=None))


def json_text(value: JsonValue) -> str:
    """The JSON text of a value, as answers have it."""
    return json.dumps(value, ensure_ascii=False)
