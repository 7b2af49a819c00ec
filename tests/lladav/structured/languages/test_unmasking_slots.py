"""Slots that are written token by token, in any order, always end as an accepted value."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lladav.structured.forms import ConstantForm, NumberForm, StringForm
from lladav.structured.languages.automaton import PADDING
from lladav.structured.languages.building import Automata
from tests.lladav.structured.languages.walks import ODD

PADDING_TOKEN = -1
FORMS: dict[str, tuple[ConstantForm | NumberForm | StringForm, Callable[[object], bool]]] = {
    "string": (StringForm(), lambda value: isinstance(value, str)),
    "length": (StringForm(2, 5), lambda value: isinstance(value, str) and 2 <= len(value) <= 5),
    "pattern": (
        StringForm(patterns=("^(ab?é)*$",)),
        lambda value: str(value).replace("b", "").strip("aé") == "",
    ),
    "number": (NumberForm(Fraction(-3), Fraction("7.5")), lambda value: -3 <= float(str(value)) <= 7.5),
    "enum": (ConstantForm(("the", 2026, None)), lambda value: value in ("the", 2026, None)),
}


@pytest.mark.parametrize("name", FORMS)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1), length=st.integers(8, 16))
def test_any_order_of_writing_ends_as_a_value(name: str, data: st.DataObject, seed: int, length: int):
    """Each step writes one token of the most probable sequence, under new random scores."""
    form, is_value = FORMS[name]
    automaton = Automata(ODD).scalars([form])
    members_K = [np.flatnonzero(automaton.class_of_V == each) for each in range(automaton.num_classes)]
    generator = np.random.default_rng(seed)
    written = dict[int, int]()
    while len(written) < length:
        scores_NV = generator.normal(size=(length, len(ODD))) * 3
        best_NK = np.full((length, automaton.num_classes), -np.inf)
        token_NK = np.zeros(best_NK.shape, dtype=int)
        for number, members in enumerate(members_K):
            token_NK[:, number] = members[scores_NV[:, members].argmax(axis=1)]
            best_NK[:, number] = scores_NV[:, members].max(axis=1)
        padding_N = generator.normal(size=length) * 3
        for position, token in written.items():
            best_NK[position], padding_N[position] = -np.inf, -np.inf
            if token == PADDING_TOKEN:
                padding_N[position] = 0
            else:
                best_NK[position, automaton.class_of_V[token]] = 0
        classes_N, _ = automaton.most_probable(best_NK, padding_N)
        position = data.draw(st.sampled_from([each for each in range(length) if each not in written]))
        chosen = int(classes_N[position])
        written[position] = PADDING_TOKEN if chosen == PADDING else int(token_NK[position, chosen])
    tokens = [written[position] for position in range(length)]
    end = tokens.index(PADDING_TOKEN) if PADDING_TOKEN in tokens else length
    assert set(tokens[end:]) <= {PADDING_TOKEN}
    assert is_value(json.loads(b"".join(ODD.token_bytes[token] for token in tokens[:end])))
