"""Copies of modules that share weights."""

from __future__ import annotations

import torch
from torch import nn

from lladav.model.copies import copy_with
from tests.lladav.build import tiny_model


def test_a_copy_without_replacements_shares_every_weight() -> None:
    model = tiny_model()
    twin = copy_with(model, lambda *_: None)
    assert all(p is q for p, q in zip(twin.parameters(), model.parameters(), strict=True))
    assert not {*twin.modules()} & {*model.modules()}


def test_layers_are_replaced_by_name_in_the_copy_only() -> None:
    model, own = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2))), nn.Linear(2, 2)
    names: list[str] = []
    twin = copy_with(model, lambda name, _: names.append(name) or (own if name == "1.0" else None))
    assert names == ["0", "1", "1.0"]
    assert twin.get_submodule("1.0") is own
    assert model.get_submodule("1.0") is not own
    inputs = torch.randn(3, 2)
    torch.testing.assert_close(twin(inputs), own(model[0](inputs)))
