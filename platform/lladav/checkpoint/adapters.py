"""Adapters in the format of ``peft``: ``adapter_config.json`` and ``adapter_model.safetensors``.

An adapter belongs to a *base*, a whole model that it does not contain. It has pairs of matrices A and B for
weights of the base, and new values of the modules that were trained in full. Its tensors have the released
names, so that ``peft`` can apply it to the released model.

Shapes: R rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from torch import Tensor

from lladav.checkpoint.digest import weights_digest
from lladav.checkpoint.index import ADAPTER_CONFIG, read_json
from lladav.checkpoint.safetensors_reading import StoredTensor, read_header, read_metadata
from lladav.config.schema import LoraConfig
from lladav.errors import UserError
from lladav.model.lora import DOWN, UP
from lladav.storage import AnyPath, exists, model_location

ADAPTER_WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
"""In front of the released names."""
DIGEST = "base_digest"
"""Text in ``adapter_model.safetensors`` with the digest of the base."""
WEIGHT = ".weight"

KIND: Mapping[str, Any] = {
    "peft_type": "LORA",
    "bias": "none",
    "fan_in_fan_out": False,
    "use_rslora": False,
    "use_dora": False,
    "lora_bias": False,
    "rank_pattern": {},
    "alpha_pattern": {},
}
"""Keys of ``adapter_config.json`` that say what kind of adapter it is, with the only values that we read."""


@dataclass(frozen=True)
class AdapterBase:
    """The whole model that an adapter belongs to."""

    path: str
    """Folder, URI or hub id of its weights."""
    digest: str | None
    """``weights_digest`` of its weights; None in adapters of other programs."""

    @classmethod
    def of(cls, path: str) -> AdapterBase:
        """The base at a folder, URI or hub id; raises ``UserError`` if its weights cannot be read."""
        return cls(path, weights_digest(path))


@dataclass(frozen=True)
class MergedTensor(StoredTensor):
    """A weight of the base that is read as ``W + scaling * B A``."""

    down: StoredTensor
    up: StoredTensor
    scaling: float

    def read(self, first: int = 0, last: int | None = None) -> Tensor:
        """The merged values, computed and returned in float32."""
        update = self.up.read().float() @ self.down.read().float()
        values = super().read().float().add_(update, alpha=self.scaling)
        return values if last is None else values.flatten()[first:last]


@dataclass(frozen=True)
class Adapter:
    """An adapter in a folder, without its values."""

    file: AnyPath
    """Its ``adapter_config.json``."""
    base: AdapterBase
    rank: int
    alpha: float
    tensors: Mapping[str, StoredTensor]
    """By the name in the base, with ``.lora_A.weight`` and ``.lora_B.weight`` for the matrices."""

    def checked_base(self) -> str:
        """The path of the base; raises ``UserError`` if it is not there or its weights have changed."""
        path = self.base.path
        if not exists(model_location(path)):
            raise UserError(f"{self.file}: base_model_name_or_path={path}: no such weights; correct the path")
        if self.base.digest and weights_digest(path) != self.base.digest:
            raise UserError(
                f"{self.file}: base_model_name_or_path={path}: has other weights than those that the adapter "
                "was trained with; restore them or correct the path"
            )
        return path

    def check_settings(self, config: LoraConfig) -> None:
        """Raise ``UserError`` if training with these settings cannot continue the adapter."""
        if (self.rank, self.alpha) != (config.rank, config.alpha):
            raise UserError(
                f"{self.file}: has rank {self.rank} and alpha {self.alpha:g}; set "
                f"train.lora.rank={self.rank} train.lora.alpha={self.alpha:g}, or merge it first with "
                "train/export.py"
            )

    def merged_into(self, base: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
        """The base's tensors by the same keys, each with the values that the adapter gives it.

        Raises ``UserError`` if a tensor of the adapter belongs to none of them or does not fit.
        """
        used: set[str] = set()
        merged = {key: self._merged(stored, used) for key, stored in base.items()}
        for name, tensor in self.tensors.items():
            if name not in used:
                raise UserError(f"{tensor.file}: {PREFIX}{name} belongs to no tensor of {self.base.path}")
        return merged

    def _merged(self, stored: StoredTensor, used: set[str]) -> StoredTensor:
        names = {end: stored.name.removesuffix(WEIGHT) + end for end in (DOWN, UP)}
        found = [name for name in (stored.name, *names.values()) if name in self.tensors]
        used.update(found)
        if stored.name in found:
            return replace(self._checked(stored.name, stored.shape), name=stored.name)
        if not found:
            return stored
        outputs, inputs = stored.shape
        down, up = (
            self._checked(names[end], shape)
            for end, shape in ((DOWN, (self.rank, inputs)), (UP, (outputs, self.rank)))
        )
        own = {field.name: getattr(stored, field.name) for field in fields(StoredTensor)}
        return MergedTensor(**own, down=down, up=up, scaling=self.alpha / self.rank)

    def _checked(self, name: str, shape: tuple[int, ...]) -> StoredTensor:
        tensor = self.tensors.get(name)
        if tensor is None or tensor.shape != shape:
            found = f"has shape {list(tensor.shape)}" if tensor else "is missing"
            raise UserError(
                f"{self.file.parent / ADAPTER_WEIGHTS}: {PREFIX}{name} {found}; expected {list(shape)}"
            )
        return tensor


def adapter_in(path: AnyPath) -> Adapter | None:
    """The adapter in a folder; None if the path holds none.

    Raises ``UserError`` if the files are damaged or of a kind that we do not read.
    """
    file = path / ADAPTER_CONFIG
    if path.is_file() or not exists(file):
        return None
    raw = read_json(file)
    for key, value in KIND.items():
        if raw.get(key, value) not in (value, None):
            raise UserError(f"{file}: {key} is {raw[key]!r}; only adapters with {value!r} can be used")
    rank, alpha, base = (raw.get(key) for key in ("r", "lora_alpha", "base_model_name_or_path"))
    if not (isinstance(rank, int) and isinstance(alpha, int | float) and isinstance(base, str)):
        raise UserError(f"{file}: needs numbers r and lora_alpha, and a text base_model_name_or_path")
    weights = path / ADAPTER_WEIGHTS
    tensors = {name.removeprefix(PREFIX): tensor for name, tensor in read_header(weights).items()}
    digest = read_metadata(weights).get(DIGEST)
    return Adapter(file, AdapterBase(base, digest), rank, alpha, tensors)
