"""The canvas: which positions compete, where an answer ends, and when a row is done."""

from __future__ import annotations

import torch
from torch import Tensor

from lladav.decoding.canvas import Canvas
from lladav.decoding.options import DecodingOptions

MASK, STOP = 60, 7


def canvas_of(rows: int, **settings: object) -> Canvas:
    options = DecodingOptions(**{"max_tokens": 6, "stop": ((STOP,),), **settings})  # pyright: ignore[reportArgumentType]
    return Canvas(rows, options, MASK, torch.device("cpu"))


def fill(canvas: Canvas, tokens_RG: list[list[int]], confidence_RG: list[list[float]]) -> None:
    """One step with these proposals and confidences at the positions that compete."""
    competing = canvas.competing()
    canvas.fill(competing, torch.tensor(tokens_RG)[competing], torch.tensor(confidence_RG)[competing])


def positions(row_G: Tensor) -> list[int]:
    return row_G.nonzero().flatten().tolist()


def test_only_the_block_competes() -> None:
    canvas = canvas_of(1, block_length=2)
    assert positions(canvas.competing()[0]) == [0, 1]
    fill(canvas, [[1] * 6], [[0.9, 0.5, 0, 0, 0, 0]])
    assert positions(canvas.competing()[0]) == [1]
    fill(canvas, [[1] * 6], [[0.9, 0.5, 0, 0, 0, 0]])
    assert positions(canvas.competing()[0]) == [2, 3]


def test_behind_a_stop_nothing_competes() -> None:
    canvas = canvas_of(1)
    fill(canvas, [[1, 1, 1, STOP, 1, 1]], [[0.1, 0.1, 0.1, 0.9, 0.2, 0.2]])
    assert positions(canvas.competing()[0]) == [0, 1, 2]
    assert not canvas.done().any()


def test_a_row_is_done_when_all_before_its_stop_is_filled() -> None:
    canvas = canvas_of(1, tokens_per_step=3)
    fill(canvas, [[1, 2, STOP, 1, 1, 1]], [[0.9, 0.9, 0.9, 0.1, 0.1, 0.1]])
    assert canvas.done().tolist() == [True]
    assert canvas.end_R.tolist() == [2]


def test_the_earliest_of_several_stops_ends_the_answer() -> None:
    other = 8
    for stops in (((STOP,), (other,)), ((other,), (STOP,))):
        canvas = canvas_of(1, tokens_per_step=2, stop=stops)
        fill(canvas, [[1, 1, STOP, 1, other, 1]], [[0.1, 0.1, 0.9, 0.1, 0.9, 0.1]])
        assert canvas.end_R.tolist() == [2]


def test_an_end_only_moves_forward_to_an_earlier_stop() -> None:
    canvas = canvas_of(1)
    fill(canvas, [[1, STOP, 1, 1, STOP, 1]], [[0.1, 0.8, 0.1, 0.1, 0.9, 0.1]])
    assert canvas.end_R.tolist() == [4]
    fill(canvas, [[1, STOP, 1, 1, STOP, 1]], [[0.1, 0.8, 0.1, 0.1, 0.9, 0.1]])
    assert canvas.end_R.tolist() == [1]


def test_rows_move_on_by_themselves() -> None:
    canvas = canvas_of(2, block_length=2, threshold=0.5, stop=())
    fill(canvas, [[1] * 6] * 2, [[0.9, 0.9, 0, 0, 0, 0], [0.9, 0.1, 0, 0, 0, 0]])
    assert canvas.block_R.tolist() == [1, 0]
    assert [positions(row) for row in canvas.competing()] == [[2, 3], [1]]


def test_kept_rows_keep_their_state() -> None:
    canvas = canvas_of(2, block_length=2, threshold=0.5, stop=())
    fill(canvas, [[1] * 6, [2] * 6], [[0.9, 0.9, 0, 0, 0, 0], [0.9, 0.1, 0, 0, 0, 0]])
    canvas.keep(torch.tensor([False, True]))
    assert canvas.tokens_RG.tolist() == [[2, MASK, MASK, MASK, MASK, MASK]]
    assert canvas.block_R.tolist() == [0]
    assert canvas.forwards_R.tolist() == [1]
