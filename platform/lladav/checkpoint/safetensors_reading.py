"""Reading safetensors files: headers, and values one tensor at a time.

A file consists of the header's length (8 bytes, little endian), a JSON header with dtypes, shapes and byte
ranges, and the values. The safetensors library maps local files; this module reads byte ranges, also from
object stores.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lladav.errors import UserError
from lladav.storage import AnyPath, file_size, read_into

if TYPE_CHECKING:
    from torch import Tensor

ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Bytes of a number in the number formats of weights, by their name in the header."""
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
        import torch  # here, because processes without torch read headers

        from lladav.checkpoint.safetensors_writing import DTYPES

        item = ITEM_BYTES[self.dtype]
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
    item = ITEM_BYTES.get(tensor.dtype)
    expected = math.prod(tensor.shape) * item if item else tensor.end - tensor.start
    if tensor.end - tensor.start != expected:
        raise UserError(
            f"{tensor.file}: {tensor.name} has {tensor.end - tensor.start} bytes; "
            f"{list(tensor.shape)} of {tensor.dtype} takes {expected}; copy it again"
        )
