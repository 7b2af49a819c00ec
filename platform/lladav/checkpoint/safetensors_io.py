"""Reading and writing safetensors files, one tensor at a time.

A file consists of the header's length (8 bytes, little endian), a JSON header with dtypes, shapes and byte
ranges, and the values. The safetensors library maps local files and writes whole files from memory; this
module reads byte ranges, also from object stores, and has one tensor in memory when it writes.
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

from lladav.errors import UserError
from lladav.storage import AnyPath, file_size, read_into

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Number formats of weights, by their name in the header."""
_MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in bytes ``start`` to ``end`` of ``file``."""

    file: AnyPath
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    def read(self, first: int = 0, last: int | None = None) -> Tensor:
        """Read the values to the CPU, or elements ``first`` to ``last`` of the flattened tensor (1-D).

        Raises ``UserError`` if they cannot be read.
        """
        item = DTYPES[self.dtype].itemsize
        end = self.end if last is None else self.start + last * item
        values = torch.empty(end - self.start - first * item, dtype=torch.uint8)
        self._fill(self.start + first * item, values.numpy().data)
        plain = values.view(DTYPES[self.dtype])
        return plain if last is not None else plain.view(self.shape)

    def sample(self, size: int) -> bytes:
        """Read at most ``size`` bytes from the middle of the values; raises ``UserError`` as ``read``."""
        content = bytearray(min(size, self.end - self.start))
        self._fill((self.start + self.end - len(content)) // 2, memoryview(content))
        return bytes(content)

    def _fill(self, start: int, buffer: memoryview) -> None:
        try:
            read = read_into(self.file, start, buffer)
        except OSError as error:
            raise UserError(f"{self.file}: {self.name} cannot be read ({error.strerror})") from None
        if read != len(buffer):
            raise UserError(f"{self.file}: ends within {self.name}; was it changed while it was read?")


def read_header(file: AnyPath) -> dict[str, StoredTensor]:
    """Return the tensors of a file by name without reading their values.

    Raises ``UserError`` if the file is not a safetensors file or is shorter than its header says.
    """
    size, begin, header = _header(file)
    try:
        tensors = {
            name: _stored(file, begin, name, entry)
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{file}: its safetensors header is damaged; copy it again") from None
    for tensor in tensors.values():
        _check_extent(tensor, size)
    return tensors


def read_metadata(file: AnyPath) -> dict[str, str]:
    """Return the texts that a file holds besides its tensors; raises ``UserError`` as ``read_header``."""
    return _header(file)[2].get("__metadata__", {})


def _header(file: AnyPath) -> tuple[int, int, dict[str, Any]]:
    """File size, offset of the first value, and the parsed header."""
    try:
        size = file_size(file)
        length = int.from_bytes(_bytes_at(file, 0, min(8, size)), "little")
        fits = length <= _MAX_HEADER_BYTES and 8 + length <= size
        header = json.loads(_bytes_at(file, 8, length)) if fits else None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    except ValueError:
        header = None
    if not isinstance(header, dict):
        raise UserError(
            f"{file}: {size} bytes without a safetensors header; copy it again, after git clone with git lfs"
        )
    return size, 8 + length, header


def _bytes_at(file: AnyPath, start: int, size: int) -> bytes:
    content = bytearray(size)
    return bytes(content[: read_into(file, start, memoryview(content))]) if size else b""


def _stored(file: AnyPath, begin: int, name: str, entry: dict[str, Any]) -> StoredTensor:
    start, end = map(int, entry["data_offsets"])
    shape = tuple(map(int, entry["shape"]))
    if not 0 <= start <= end or any(side < 0 for side in shape):
        raise ValueError(name)
    return StoredTensor(file, name, entry["dtype"], shape, begin + start, begin + end)


def _check_extent(tensor: StoredTensor, file_size: int) -> None:
    if tensor.end > file_size:
        raise UserError(
            f"{tensor.file}: truncated: {tensor.name} ends at byte {tensor.end}, the file at {file_size}; "
            "copy it again"
        )
    item = DTYPES[tensor.dtype].itemsize if tensor.dtype in DTYPES else None
    expected = torch.Size(tensor.shape).numel() * item if item else tensor.end - tensor.start
    if tensor.end - tensor.start != expected:
        raise UserError(
            f"{tensor.file}: {tensor.name} has {tensor.end - tensor.start} bytes; "
            f"{list(tensor.shape)} of {tensor.dtype} takes {expected}; copy it again"
        )


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
