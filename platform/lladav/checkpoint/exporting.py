"""Weights in a released layout, written tensor by tensor.

A folder appears whole or not at all: everything goes into a hidden folder beside it, which is renamed at the
end. Sharded models: all ranks call ``export`` alike, and the one that ``writes`` needs one whole tensor at a
time.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from upath import UPath

from lladav.checkpoint.config_fields import CONFIG
from lladav.checkpoint.config_reading import model_config_of
from lladav.checkpoint.config_writing import config_json
from lladav.checkpoint.index import INDEX, SINGLE
from lladav.checkpoint.key_mapping import KeyMapping, layout_named
from lladav.checkpoint.loading import matching_tensors
from lladav.checkpoint.safetensors_io import DTYPES, StoredTensor, TensorSpec, TensorWriter
from lladav.config.schema import ModelConfig
from lladav.errors import UserError
from lladav.model.llada_v import LLaDAV
from lladav.model.sharding import Gather, NamedParameters, full_shape, no_gather, parameters_by_name
from lladav.storage import exists, location
from lladav.storage.local_cache import local_copy

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
SHARD_BYTES = 5 * 10**9


@dataclass(frozen=True)
class Outgoing:
    """A tensor to write, and the context in which its values are at hand."""

    spec: TensorSpec
    values: Callable[[], AbstractContextManager[Tensor]]


def export(
    model: NamedParameters,
    config: ModelConfig,
    folder: str | Path,
    layout: str = "llada_v",
    *,
    gather: Gather = no_gather,
    writes: bool = True,
    tokenizer: str | Path | None = None,
    max_shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write the parameters that the layout holds, ``config.json`` and, from a folder, the tokenizer.

    Values keep their number format. ``model`` may be some named parameters instead, as long as they are all
    that the layout needs. Raises ``UserError`` where ``folder`` is in use or cannot be written.
    """
    known = layout_named(layout)
    outgoing = [
        _from_parameter(released, parameter, gather)
        for name, parameter in parameters_by_name(model).items()
        if (released := known.released(name))
    ]
    assert outgoing, f"no parameter is named as LLaDAV names those of {layout}"
    _write(outgoing, config, Path(folder), known, tokenizer, max_shard_bytes, writes)


def convert(
    source: str | Path, folder: str | Path, layout: str, *, max_shard_bytes: int = SHARD_BYTES
) -> None:
    """Rewrite a released checkpoint in another layout, along with its tokenizer if it has one."""
    source = local_copy(source)
    known, config = layout_named(layout), model_config_of(source)
    with torch.device("meta"):
        model = LLaDAV(config)
    stored = matching_tensors(model, source)
    names = {name: released for name, _ in model.named_parameters() if (released := known.released(name))}
    lacking = next((name for name in names if name not in stored), None)
    if lacking:
        raise UserError(f"{source}: holds no {names[lacking]}; expected weights with all that {layout} needs")
    outgoing = [_from_stored(names[name], stored[name]) for name in names]
    tokenizer = config.tokenizer if (Path(config.tokenizer) / TOKENIZER_FILES[0]).is_file() else None
    _write(outgoing, config, Path(folder), known, tokenizer, max_shard_bytes)


def _from_parameter(name: str, parameter: nn.Parameter, gather: Gather) -> Outgoing:
    @contextmanager
    def values() -> Iterator[Tensor]:
        with gather([parameter]):
            yield parameter.data

    return Outgoing(TensorSpec(name, parameter.dtype, full_shape(parameter)), values)


def _from_stored(name: str, stored: StoredTensor) -> Outgoing:
    spec = TensorSpec(name, DTYPES[stored.dtype], stored.shape)
    return Outgoing(spec, lambda: nullcontext(stored.read()))


def _write(
    outgoing: Sequence[Outgoing],
    config: ModelConfig,
    folder: Path,
    layout: KeyMapping,
    tokenizer: str | Path | None,
    max_shard_bytes: int,
    writes: bool = True,
) -> None:
    _refuse_used(folder)
    shards = shard(outgoing, max_shard_bytes)
    if not writes:
        for each in shards.values():
            _take_part(each)
        return
    with _appearing(folder) as partial:
        for file, each in shards.items():
            _write_file(partial / file, each)
        _write_json(partial / CONFIG, config_json(config, layout.name, outgoing[0].spec.dtype))
        if len(shards) > 1:
            _write_json(partial / INDEX, _index(shards))
        if tokenizer is not None:
            _copy_tokenizer(location(tokenizer), partial)


def shard(outgoing: Sequence[Outgoing], max_bytes: int) -> dict[str, list[Outgoing]]:
    """Tensors by file: wider number formats first, a new file where one would exceed ``max_bytes``."""
    groups: list[list[Outgoing]] = [[]]
    for tensor in sorted(outgoing, key=lambda o: -o.spec.dtype.itemsize):
        filled = sum(o.spec.size for o in groups[-1])
        if groups[-1] and filled + tensor.spec.size > max_bytes:
            groups.append([])
        groups[-1].append(tensor)
    if len(groups) == 1:
        return {SINGLE: groups[0]}
    return {f"model-{i:05d}-of-{len(groups):05d}.safetensors": group for i, group in enumerate(groups, 1)}


def _take_part(outgoing: Sequence[Outgoing]) -> None:
    for tensor in outgoing:
        with tensor.values():
            pass


def _write_file(file: Path, outgoing: Sequence[Outgoing]) -> None:
    with TensorWriter(file, [tensor.spec for tensor in outgoing]) as writer:
        for tensor in outgoing:
            with tensor.values() as values:
                writer.add(values)


def _index(shards: dict[str, list[Outgoing]]) -> dict[str, object]:
    total = sum(tensor.spec.size for group in shards.values() for tensor in group)
    places = {tensor.spec.name: file for file, group in shards.items() for tensor in group}
    return {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}


def _write_json(file: Path, content: dict[str, object]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _copy_tokenizer(source: UPath, folder: Path) -> None:
    if not exists(source / TOKENIZER_FILES[0]):
        raise UserError(f"{source}: holds no {TOKENIZER_FILES[0]}; expected a tokenizer's folder")
    for name in TOKENIZER_FILES:
        if exists(source / name):
            shutil.copyfile(local_copy(source / name), folder / name)


def _refuse_used(folder: Path) -> None:
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise UserError(f"{folder}: already there; remove it or choose another folder")


@contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """A hidden folder beside ``folder`` that takes its place when all went well and is removed otherwise."""
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
