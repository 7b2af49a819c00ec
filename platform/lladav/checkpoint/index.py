"""Finds the file of each tensor of a released checkpoint.

Only headers are read, so that missing and damaged files are reported before any value is read.
"""

from __future__ import annotations

import json
from typing import Any

from lladav.checkpoint.safetensors_reading import StoredTensor, read_header
from lladav.errors import UserError
from lladav.storage import AnyPath, files_in, read_text

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"


def stored_tensors(path: AnyPath) -> dict[str, StoredTensor]:
    """Return the tensors of a safetensors file, or of a folder with one such file or with several and an
    index.

    Raises ``UserError`` if a file is missing, damaged or truncated.
    """
    if path.is_file():
        return read_header(path)
    if (path / INDEX).is_file():
        return _sharded(path / INDEX)
    return read_header(_only_file(path))


def read_json(file: AnyPath) -> dict[str, Any]:
    """Read a JSON object. Raises ``UserError`` if the file is missing or contains something else."""
    try:
        content = json.loads(read_text(file))
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UserError(f"{file}: not JSON ({error}); copy it again") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: not a JSON object; copy it again")
    return content


def _only_file(folder: AnyPath) -> AnyPath:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such file or folder; expected weights in a released layout")
    files = [folder / name for name in files_in(folder) if name.endswith(".safetensors")]
    if len(files) == 1:
        return files[0]
    if not files:
        raise UserError(f"{folder}: holds no .safetensors file; expected {SINGLE} or {INDEX} with its files")
    if (folder / SINGLE) in files:
        return folder / SINGLE
    raise UserError(f"{folder}: holds {len(files)} .safetensors files but no {INDEX}; copy the index too")


def _sharded(index: AnyPath) -> dict[str, StoredTensor]:
    files = read_json(index).get("weight_map")
    if not isinstance(files, dict) or not files or not all(isinstance(file, str) for file in files.values()):
        raise UserError(f"{index}: has no weight_map of tensors to files; copy it again")
    tensors: dict[str, StoredTensor] = {}
    for file in sorted(set(files.values())):
        tensors |= _shard(index, file, [name for name, each in files.items() if each == file])
    return tensors


def _shard(index: AnyPath, file: str, names: list[str]) -> dict[str, StoredTensor]:
    path = index.parent / file
    if not path.is_file():
        raise UserError(
            f"{path}: missing; {index.name} expects {len(names)} tensors in it ({names[0]}, ...); copy it too"
        )
    tensors = read_header(path)
    for name in names:
        if name not in tensors:
            raise UserError(f"{path}: lacks tensor {name}, which {index.name} expects in it; copy both again")
    return tensors
