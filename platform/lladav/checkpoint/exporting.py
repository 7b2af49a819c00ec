"""Exporting weights in a released layout, tensor by tensor.

Everything is written to a hidden folder beside the target, which is renamed at the end. Exporting a sharded
model is a collective, and the rank that writes has one full tensor in memory at a time.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from upath import UPath

from lladav.checkpoint.config_fields import CONFIG
from lladav.checkpoint.config_reading import model_config_of
from lladav.checkpoint.config_writing import config_json
from lladav.checkpoint.index import INDEX, SINGLE
from lladav.checkpoint.key_mapping import KeyMapping, layout_for
from lladav.checkpoint.loading import matching_tensors
from lladav.checkpoint.safetensors_reading import StoredTensor
from lladav.checkpoint.safetensors_writing import DTYPES, TensorSpec, TensorWriter
from lladav.config.schema import ModelConfig
from lladav.errors import UserError
from lladav.model.llada_v import LLaDAV
from lladav.model.sharding import Gather, NamedParameters, full_shape, no_gather, parameters_by_name
from lladav.storage import exists, model_location
from lladav.storage.local_cache import local_copy, local_model

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
SHARD_BYTES = 5 * 10**9


@dataclass(frozen=True)
class TensorToWrite:
    """A tensor to write: its spec, and a context that provides its values (a collective if it is sharded)."""

    spec: TensorSpec
    values: Callable[[], AbstractContextManager[Tensor]]


def export(
    model: NamedParameters,
    config: ModelConfig,
    folder: str | Path,
    layout: str | None = None,
    *,
    gather: Gather = no_gather,
    writes: bool = True,
    tokenizer: str | Path | None = None,
    max_shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write the parameters of the layout, ``config.json`` and the files of the folder ``tokenizer``.

    The layout is that of the whole model by default. Values keep their number format. ``model`` may also be
    the named parameters that the layout needs. A collective for a sharded model: ``writes`` is True on one
    rank.

    Raises ``UserError`` if ``folder`` is not empty or cannot be written, and if the layout is for models with
    another objective.
    """
    known = layout_for(config, layout)
    tensors = [
        to_write(released, parameter, gather)
        for name, parameter in parameters_by_name(model).items()
        if (released := known.released(name))
    ]
    assert tensors, f"no parameter is named as LLaDAV names those of {known.name}"
    _write(tensors, config, Path(folder), known, tokenizer, max_shard_bytes, writes)


def convert(
    source: str | Path,
    folder: str | Path,
    layout: str | None = None,
    *,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = SHARD_BYTES,
) -> KeyMapping:
    """Write a released checkpoint in another layout, with its tokenizer if it has one; return the layout.

    An adapter is merged into its base. The layout is that of the whole model by default, and tensors keep
    their number format (merged ones that of the base). Raises ``UserError`` as ``export`` does, and if the
    source lacks a part of the layout.
    """
    source = local_model(source)
    config = model_config_of(source)
    known = layout_for(config, layout)
    with torch.device("meta"):
        model = LLaDAV(config)
    stored = matching_tensors(model, model_location(source))
    names = {name: released for name, _ in model.named_parameters() if (released := known.released(name))}
    lacking = next((name for name in names if name not in stored), None)
    if lacking:
        raise UserError(
            f"{source}: holds no {names[lacking]}; expected weights with all that {known.name} needs"
        )
    tensors = [_from_stored(names[name], stored[name], dtype) for name in names]
    tokenizer = config.tokenizer if (Path(config.tokenizer) / TOKENIZER_FILES[0]).is_file() else None
    _write(tensors, config, Path(folder), known, tokenizer, max_shard_bytes)
    return known


def to_write(name: str, parameter: nn.Parameter, gather: Gather) -> TensorToWrite:
    """A parameter under its released name."""

    @contextmanager
    def values() -> Iterator[Tensor]:
        with gather([parameter]):
            yield parameter.data

    return TensorToWrite(TensorSpec(name, parameter.dtype, full_shape(parameter)), values)


def _from_stored(name: str, stored: StoredTensor, dtype: torch.dtype | None) -> TensorToWrite:
    spec = TensorSpec(name, dtype or DTYPES[stored.dtype], stored.shape)
    return TensorToWrite(spec, lambda: nullcontext(stored.read().to(spec.dtype)))


def _write(
    tensors: Sequence[TensorToWrite],
    config: ModelConfig,
    folder: Path,
    layout: KeyMapping,
    tokenizer: str | Path | None,
    max_shard_bytes: int,
    writes: bool = True,
) -> None:
    files = shard(tensors, max_shard_bytes)
    documents = {CONFIG: config_json(config, layout.name, tensors[0].spec.dtype)}
    if len(files) > 1:
        documents[INDEX] = _index(files)
    write_folder(folder, files, documents, tokenizer, writes=writes)


def write_folder(
    folder: Path,
    files: Mapping[str, Sequence[TensorToWrite]],
    documents: Mapping[str, dict[str, Any]],
    tokenizer: str | Path | None,
    *,
    writes: bool = True,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write safetensors files, JSON documents and a tokenizer's files, all or none of them.

    A collective as ``export``, and raises as ``export`` on the rank that writes. ``metadata`` goes into each
    safetensors file.
    """
    if not writes:
        _gather_only(files)  # and does not look at the folder: the rank that writes may have finished
        return
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise UserError(f"{folder}: already there; remove it or choose another folder")
    with _atomic_folder(folder) as partial:
        for file, tensors in files.items():
            _write_file(partial / file, tensors, metadata)
        for file, document in documents.items():
            _write_json(partial / file, document)
        if tokenizer is not None:
            _copy_tokenizer(model_location(tokenizer), partial)


def shard(tensors: Sequence[TensorToWrite], max_bytes: int) -> dict[str, list[TensorToWrite]]:
    """Assign tensors to files of at most ``max_bytes``, wider number formats first (``TensorWriter``)."""
    groups: list[list[TensorToWrite]] = [[]]
    for tensor in widest_first(tensors):
        filled = sum(o.spec.size for o in groups[-1])
        if groups[-1] and filled + tensor.spec.size > max_bytes:
            groups.append([])
        groups[-1].append(tensor)
    if len(groups) == 1:
        return {SINGLE: groups[0]}
    return {f"model-{i:05d}-of-{len(groups):05d}.safetensors": group for i, group in enumerate(groups, 1)}


def widest_first(tensors: Iterable[TensorToWrite]) -> list[TensorToWrite]:
    """The order of tensors in a file: see ``TensorWriter``."""
    return sorted(tensors, key=lambda tensor: -tensor.spec.dtype.itemsize)


def _gather_only(files: Mapping[str, Sequence[TensorToWrite]]) -> None:
    """Take part in the gathers of the rank that writes, in the same order."""
    for tensors in files.values():
        for tensor in tensors:
            with tensor.values():
                pass


def _write_file(file: Path, tensors: Sequence[TensorToWrite], metadata: Mapping[str, str] | None) -> None:
    with TensorWriter(file, [tensor.spec for tensor in tensors], metadata) as writer:
        for tensor in tensors:
            with tensor.values() as values:
                writer.add(values)


def _index(shards: Mapping[str, Sequence[TensorToWrite]]) -> dict[str, Any]:
    total = sum(tensor.spec.size for group in shards.values() for tensor in group)
    files = {tensor.spec.name: file for file, group in shards.items() for tensor in group}
    return {"metadata": {"total_size": total}, "weight_map": dict(sorted(files.items()))}


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _copy_tokenizer(source: UPath, folder: Path) -> None:
    if not exists(source / TOKENIZER_FILES[0]):
        raise UserError(f"{source}: holds no {TOKENIZER_FILES[0]}; expected a tokenizer's folder")
    for name in TOKENIZER_FILES:
        if exists(source / name):
            shutil.copyfile(local_copy(source / name), folder / name)


@contextmanager
def _atomic_folder(folder: Path) -> Iterator[Path]:
    """A hidden folder that is renamed to ``folder`` on success and removed on an error."""
    partial = folder.parent / f".{folder.name}.partial"
    with ExitStack() as cleanup:
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            cleanup.callback(shutil.rmtree, partial, ignore_errors=True)
            yield partial
            partial.replace(folder)
        except OSError as error:
            raise UserError(
                f"{folder}: cannot be written ({error.strerror}); nothing was kept of it"
            ) from error
