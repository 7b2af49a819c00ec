"""Writing safetensors files, one tensor at a time.

The safetensors library writes whole files from memory; this module has one tensor in memory.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Number formats of weights, by their name in the header."""


@dataclass(frozen=True)
class TensorSpec:
    """Name, number format and shape of a tensor to write."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes of the values."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class TensorWriter:
    """Writes a safetensors file: first the header, then one tensor per ``add`` in the order of ``specs``.

    Wider number formats must come first, so that every tensor is aligned. ``metadata`` are texts beside the
    tensors. The file survives a power failure once the context has exited.
    """

    def __init__(
        self, file: Path, specs: Sequence[TensorSpec], metadata: Mapping[str, str] | None = None
    ) -> None:
        self._expected = iter(specs)
        self._stream = file.open("xb")
        header = json.dumps(_header_of(specs, metadata or {}), separators=(",", ":")).encode()
        header += b" " * (-len(header) % 8)
        self._stream.write(len(header).to_bytes(8, "little") + header)

    def __enter__(self) -> TensorWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: TracebackType | None) -> None:
        with self._stream:
            if kind is None:
                assert next(self._expected, None) is None, "a tensor of the header was never written"
                self._stream.flush()
                os.fsync(self._stream.fileno())

    def add(self, values: Tensor) -> None:
        """Append the next tensor's values."""
        spec = next(self._expected)
        assert (values.dtype, tuple(values.shape)) == (spec.dtype, spec.shape), f"{spec} does not fit"
        plain = values.detach().cpu().contiguous().view(-1).view(torch.uint8)
        self._stream.write(plain.numpy().data)


def _header_of(specs: Sequence[TensorSpec], metadata: Mapping[str, str]) -> dict[str, Any]:
    names = {dtype: name for name, dtype in DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
    start = 0
    for spec in specs:
        offsets = [start, start + spec.size]
        header[spec.name] = {"dtype": names[spec.dtype], "shape": list(spec.shape), "data_offsets": offsets}
        start += spec.size
    return header
