"""The answers of several rows while they are being filled.

Rows are independent: each has its own block, step and end. A row's end moves forward only, to where the
earliest stop sequence begins; only masks before it are still filled.

Shapes: R rows, G positions of the canvas.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lladav.decoding.options import DecodingOptions
from lladav.decoding.reveal import by_factor, by_quota, by_threshold


class Canvas:
    """Tokens (R, G) of the rows, masks where nothing is revealed yet, and how far each row is."""

    def __init__(self, rows: int, options: DecodingOptions, mask_id: int, device: torch.device) -> None:
        self.options = options
        self.mask_id = mask_id
        self.tokens_RG = torch.full((rows, options.max_tokens), mask_id, device=device)
        self.end_R = torch.full((rows,), options.max_tokens, device=device)
        self.block_R = torch.zeros(rows, dtype=torch.long, device=device)
        self.step_R = torch.zeros(rows, dtype=torch.long, device=device)
        self.forwards_R = torch.zeros(rows, dtype=torch.long, device=device)
        self._position_G = torch.arange(options.max_tokens, device=device)
        self._quotas = torch.tensor(options.quotas or [], dtype=torch.long, device=device)
        self._steps_of_block = len(options.quotas or range(options.block))

    def keep(self, rows_R: Tensor) -> None:
        """Let go of all rows but those that are True."""
        for name in ("tokens_RG", "end_R", "block_R", "step_R", "forwards_R"):
            setattr(self, name, getattr(self, name)[rows_R])

    def competing(self) -> Tensor:
        """Masked positions (R, G) that this step may fill: none behind the row's block or its end."""
        block_end_R = (self.block_R + 1) * self.options.block
        return self._masked() & self._before(torch.minimum(self.end_R, block_end_R))

    def fill(self, competing_RG: Tensor, tokens_M: Tensor, confidence_M: Tensor) -> None:
        """Reveal what the rule picks of the M proposals at the competing positions, and move each row on."""
        proposed_RG = self.tokens_RG.masked_scatter(competing_RG, tokens_M)
        confidence_RG = torch.full_like(self.tokens_RG, -torch.inf, dtype=confidence_M.dtype)
        confidence_RG.masked_scatter_(competing_RG, confidence_M)
        self.tokens_RG = torch.where(self._revealed(confidence_RG), proposed_RG, self.tokens_RG)
        self._find_stops(self.options.stop)
        self._move_on()

    def done(self) -> Tensor:
        """Rows (R) with nothing left to fill."""
        filled_R = ~(self._masked() & self._before(self.end_R)).any(-1)
        return filled_R | (self.block_R * self.options.block >= self.end_R)

    def _revealed(self, confidence_RG: Tensor) -> Tensor:
        options = self.options
        if options.threshold is not None:
            return by_threshold(confidence_RG, options.threshold)
        if options.factor is not None:
            return by_factor(confidence_RG, options.factor, self._masked().sum(-1))
        return by_quota(confidence_RG, self._quotas[self.step_R])

    def _find_stops(self, stops: Sequence[Sequence[int]]) -> None:
        for stop in stops:
            if len(stop) > self.options.max_tokens:
                continue
            windows_RGN = self.tokens_RG.unfold(-1, len(stop), 1)
            found_RG = (windows_RGN == torch.tensor(stop, device=windows_RGN.device)).all(-1)
            first_R = found_RG.long().argmax(-1)
            self.end_R = torch.where(found_RG.any(-1), torch.minimum(self.end_R, first_R), self.end_R)

    def _move_on(self) -> None:
        """Next step, or first step of the next block where the block is full or its steps are spent."""
        self.forwards_R += 1
        self.step_R += 1
        in_block_RG = self._position_G // self.options.block == self.block_R[:, None]
        full_R = ~(self._masked() & in_block_RG).any(-1)
        over_R = full_R | (self.step_R >= self._steps_of_block)
        self.block_R += over_R
        self.step_R[over_R] = 0

    def _masked(self) -> Tensor:
        return self.tokens_RG == self.mask_id

    def _before(self, end_R: Tensor) -> Tensor:
        return self._position_G < end_R[:, None]
