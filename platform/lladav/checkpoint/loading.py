"""Loading released weights into a model, tensor by tensor.

Every name, shape and number format is checked against the headers before the first value is changed. Loading
into a sharded model is a collective: all ranks read the headers and gather the parameters in the model's
order.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from lladav.checkpoint.adapters import Adapter, adapter_in
from lladav.checkpoint.config_reading import model_config_of
from lladav.checkpoint.index import stored_tensors
from lladav.checkpoint.key_mapping import KeyMapping, detect, layout_for, layout_named
from lladav.checkpoint.safetensors_reading import ITEM_BYTES, StoredTensor
from lladav.config.introspection import nearest
from lladav.config.schema import ModelPart, VisionConfig
from lladav.errors import UserError
from lladav.model.llada_v import LLaDAV
from lladav.model.lora import lora_parameters
from lladav.model.numerics import is_finite
from lladav.model.sharding import Gather, full_shape, no_gather
from lladav.model.vision import built_layers
from lladav.storage import AnyPath, model_location
from lladav.storage.local_cache import local_model

LOG = logging.getLogger(__name__)


def load(
    model: LLaDAV,
    path: str | Path,
    *,
    layout: str | None = None,
    parts: Collection[ModelPart] | None = None,
    gather: Gather = no_gather,
    reads: bool = True,
) -> set[str]:
    """Copy a released checkpoint (file, folder, URI or hub id) into the model. Returns the names
    of the set parameters.

    The layout is detected from the tensor names by default. ``parts`` restricts what is loaded. The model
    keeps its number format. Nothing of a URI is kept on disk. An adapter is merged into its base.

    A collective for a sharded model: ``reads`` is True on one rank, whose values ``gather`` must broadcast;
    the other ranks read headers only.

    Raises ``UserError`` with file, tensor and what was expected: before any value is changed for names,
    shapes and number formats, and while reading for values that are not finite in the model's number format.
    """
    stored = matching_tensors(model, model_location(path), layout, parts)
    for name, parameter in model.named_parameters():
        if name in stored:
            with gather([parameter]), torch.no_grad():
                if reads:
                    _copy(stored[name], parameter)
    return set(stored)


def load_adapter(
    model: LLaDAV, adapter: Adapter, *, gather: Gather = no_gather, reads: bool = True
) -> set[str]:
    """Copy an adapter into the trained parameters of a model, without merging it. Returns their names.

    A collective, and raises ``UserError``, as ``load``; also if the model's adapters are of other layers.
    """
    layout = layout_for(model.config)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    names = {released: name for name in trained if (released := layout.released(name))}
    for released in adapter.tensors:
        if released not in names:
            raise UserError(f"{adapter.file}: has {released}, which this run does not train")
    needed = {names[released] for released in adapter.tensors} | lora_parameters(model).keys()
    where = adapter.file.parent
    for released, name in names.items():
        if name in needed:
            stored = _checked(adapter.tensors, released, full_shape(trained[name]), where)
            with gather([trained[name]]), torch.no_grad():
                if reads:
                    _copy(stored, trained[name])
    return needed


def _copy(stored: StoredTensor, parameter: torch.Tensor) -> None:
    """Read a tensor into a parameter and check that the values are finite."""
    values = stored.read()
    parameter.copy_(values)
    if is_finite(parameter):
        return
    if not is_finite(values):
        raise UserError(
            f"{stored.file}: {stored.name} has values that are not finite; copy the file again, or use "
            "weights of an earlier checkpoint"
        )
    name = str(parameter.dtype).removeprefix("torch.")
    raise UserError(f"{stored.file}: {stored.name} has values too large for {name}; use another dtype")


def open_model(folder: str | Path, dtype: torch.dtype, device: str | torch.device = "cpu") -> LLaDAV:
    """Load a whole checkpoint for inference, with weights in ``dtype`` from the start."""
    folder = local_model(folder)
    model = _built(folder, dtype, torch.device(device))
    load(model, folder, layout=layout_for(model.config).name)
    return model.eval().requires_grad_(False)


def check_model(folder: str | Path) -> LLaDAV:
    """Check names, shapes and number formats of a whole checkpoint without reading its values.

    Returns the model on the meta device. Raises ``UserError`` as ``open_model`` does.
    """
    model = _built(folder, torch.float32, torch.device("meta"))
    matching_tensors(model, model_location(folder), layout_for(model.config).name)
    return model.requires_grad_(False)


def _built(folder: str | Path, dtype: torch.dtype, device: torch.device) -> LLaDAV:
    config = model_config_of(folder)
    if config.weights.llada_v is None:
        raise UserError(f"{folder}: holds one tower only; expected a whole LLaDA-V checkpoint")
    with _number_format(dtype), torch.device("meta"):
        model = LLaDAV(config)
    return model.to_empty(device=device)


@contextmanager
def _number_format(dtype: torch.dtype) -> Iterator[None]:
    """Create modules in this number format."""
    previous = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(previous)


def matching_tensors(
    model: LLaDAV, path: AnyPath, layout: str | None = None, parts: Collection[ModelPart] | None = None
) -> dict[str, StoredTensor]:
    """Return the stored tensors of the model's parameters by our names, after checking all of them.

    Those of an adapter are the tensors of its base, read with the adapter merged.
    """
    if adapter := adapter_in(path):
        base = matching_tensors(model, model_location(adapter.checked_base()), layout)
        merged = adapter.merged_into(base)
        return {name: each for name, each in merged.items() if parts is None or part_of(name) in parts}
    tensors = _without_buffers(stored_tensors(path), path)
    known = layout_named(layout) if layout else detect(tensors, str(path))
    shapes = {name: full_shape(parameter) for name, parameter in model.named_parameters()}
    names = {ours: released for ours in shapes if (released := known.released(ours))}
    _check_names(tensors, names, known, model.config.vision)
    wanted = {ours: released for ours, released in names.items() if parts is None or part_of(ours) in parts}
    for part in parts or ():
        if part not in map(part_of, wanted):
            raise UserError(
                f"{path}: the layout {known.name} holds no {part.value} weights; expected another folder"
            )
    return {ours: _checked(tensors, name, shapes[ours], path) for ours, name in wanted.items()}


def part_of(name: str) -> ModelPart:
    """Return the part of a parameter; the newline belongs to the language tower."""
    section = name.partition(".")[0]
    return ModelPart.language if section == "newline" else ModelPart(section)


def unused_layers(vision: VisionConfig) -> range:
    """Return the layers of the published vision tower behind the feature layer."""
    return range(built_layers(vision), vision.layers)


def _without_buffers(tensors: Mapping[str, StoredTensor], path: AnyPath) -> dict[str, StoredTensor]:
    buffers = [name for name in tensors if KeyMapping.computes(name)]
    if buffers:
        LOG.warning("%s: skips %d buffers that the model computes, as %s", path, len(buffers), buffers[0])
    return {name: tensor for name, tensor in tensors.items() if not KeyMapping.computes(name)}


def _check_names(
    tensors: Mapping[str, StoredTensor], names: Mapping[str, str], layout: KeyMapping, vision: VisionConfig
) -> None:
    expected = set(names.values())
    unused = unused_layers(vision)
    unexpected = [name for name in tensors if name not in expected and not layout.ignores(name, unused)]
    if unexpected:
        absent = [name for name in names.values() if name not in tensors]
        guess = nearest(unexpected[0], absent) or nearest(unexpected[0], expected)
        meant = (
            f"; expected {guess}" if guess else f"; the model has no such part in the layout {layout.name}"
        )
        raise UserError(f"{tensors[unexpected[0]].file}: unexpected tensor {unexpected[0]}{meant}")


def _checked(
    tensors: Mapping[str, StoredTensor], name: str, shape: tuple[int, ...], path: AnyPath
) -> StoredTensor:
    tensor = tensors.get(name)
    if tensor is None:
        raise UserError(f"{path}: lacks tensor {name}; expected one of shape {list(shape)}")
    if tensor.shape != shape:
        raise UserError(f"{tensor.file}: {name} has shape {list(tensor.shape)}; expected {list(shape)}")
    if tensor.dtype not in ITEM_BYTES:
        raise UserError(f"{tensor.file}: {name} is {tensor.dtype}; expected one of {', '.join(ITEM_BYTES)}")
    return tensor
