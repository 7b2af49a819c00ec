"""Maxima of classes: what the kernels of a CPU and of a GPU find, run on a CPU."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lladav.decoding.kernels.class_maxima import ClassColumns, _argmax_by_row, _masked_argmax


@given(st.integers(1, 6), st.integers(0, 10**6))
@settings(deadline=None)
def test_the_kernels_of_both_devices_agree(num_classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    class_C = rng.integers(0, num_classes, 40)
    columns = ClassColumns.of(class_C, num_classes, torch.device("cpu"))
    scores_RL = columns.gather(torch.from_numpy(rng.normal(size=(3, 40))))
    maxima_RK = columns.maxima(scores_RL)
    assert torch.equal(columns._scattered_maxima(scores_RL), maxima_RK)
    for k in np.flatnonzero(columns.present_K):
        bounds = columns.first_K[[k] * 3], columns.end_K[[k] * 3]
        places_R = _argmax_by_row(scores_RL, *bounds)
        assert torch.equal(_masked_argmax(scores_RL, *bounds), places_R)
        assert torch.equal(scores_RL[range(3), places_R], maxima_RK[:, k])
        assert (class_C[columns.best(scores_RL, np.full(3, k))] == k).all()
