"""Initial values of weights.

The values of a parameter depend only on the seed, its name and its shape. They are the same on every device
and for any number of ranks, and do not depend on which other parameters are initialized.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor

from lladav.model.sharding import Gather, NamedParameters, full_shape, no_gather, parameters_by_name

Initializer = Callable[[tuple[int, ...], int, torch.Generator], Tensor]
"""Draws float32 values, given a shape, the number of inputs of the layer, and a generator."""


def initialize(
    model: NamedParameters,
    seed: int,
    *,
    skip: Collection[str] = (),
    gather: Gather = no_gather,
    writes: bool = True,
) -> None:
    """Set every parameter that is not named in ``skip`` to its initial values.

    A collective for a sharded model: all ranks call it, ``writes`` is True on one rank, and ``gather`` must
    broadcast that rank's values.
    """
    parameters = parameters_by_name(model)
    shapes = {name: full_shape(parameter) for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        if name in skip:
            continue
        with gather([parameter]), torch.no_grad():
            if writes:
                parameter.copy_(initial_values(name, shapes, seed))


def initial_values(name: str, shapes: Mapping[str, tuple[int, ...]], seed: int) -> Tensor:
    """Return the float32 values of one parameter. ``shapes`` has its shape and, for a bias, its weight's."""
    initializer = next(initializer for pattern, initializer in INITIALIZERS if re.fullmatch(pattern, name))
    return initializer(shapes[name], _inputs(name, shapes), _generator(name, seed))


def _inputs(name: str, shapes: Mapping[str, tuple[int, ...]]) -> int:
    weight = re.sub(r"\.bias$", ".weight", name)
    return math.prod(shapes.get(weight, shapes[name])[1:])


def _generator(name: str, seed: int) -> torch.Generator:
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little", signed=True))


def _ones(shape: tuple[int, ...], inputs: int, generator: torch.Generator) -> Tensor:  # noqa: ARG001
    return torch.ones(shape)


def _zeros(shape: tuple[int, ...], inputs: int, generator: torch.Generator) -> Tensor:  # noqa: ARG001
    return torch.zeros(shape)


def _normal(std: float) -> Initializer:
    return lambda shape, _, generator: torch.empty(shape).normal_(0.0, std, generator=generator)


def _normal_by_width(shape: tuple[int, ...], inputs: int, generator: torch.Generator) -> Tensor:
    """Standard deviation 1 / sqrt(width)."""
    return _normal(shape[-1] ** -0.5)(shape, inputs, generator)


def _normal_by_inputs(shape: tuple[int, ...], inputs: int, generator: torch.Generator) -> Tensor:
    """LeCun normal: variance 1 / inputs."""
    return _normal(inputs**-0.5)(shape, inputs, generator)


def _uniform_by_inputs(shape: tuple[int, ...], inputs: int, generator: torch.Generator) -> Tensor:
    """torch's default for a linear layer: within 1 / sqrt(inputs), for weights and biases."""
    bound = inputs**-0.5
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)


def _xavier(shape: tuple[int, ...], inputs: int, generator: torch.Generator) -> Tensor:
    """Xavier uniform: variance 2 / (inputs + outputs)."""
    bound = math.sqrt(6 / (inputs + shape[0]))
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)


INITIALIZERS: tuple[tuple[str, Initializer], ...] = (
    (r".*\.lora_A\.weight", _uniform_by_inputs),
    (r".*\.lora_B\.weight", _zeros),
    (r"language\..*norm\.weight", _ones),
    (r"language\..*", _normal(0.02)),
    (r"newline", _normal_by_width),
    (r"projector\..*", _uniform_by_inputs),
    (r"vision\..*norm\d?\.weight", _ones),
    (r"vision\..*norm\d?\.bias", _zeros),
    (r"vision\..*\.patch_embedding\.weight", _normal_by_inputs),
    (r"vision\..*\.position_embedding\.weight", _normal_by_width),
    (r"vision\..*\.mlp\.fc\d\.bias", _normal(1e-6)),
    (r"vision\..*\.bias", _zeros),
    (r"vision\..*\.weight", _xavier),
)
"""The initializer of each parameter by name; the first match counts. As in LLaDA, torch's linear layer and
SigLIP."""
