"""What a run starts from: a whole model or its towers, and the adapter that the run continues."""

from __future__ import annotations

from dataclasses import dataclass

from lladav.checkpoint import AdapterBase, adapter_in
from lladav.checkpoint.adapters import Adapter
from lladav.config.schema import Config
from lladav.storage import model_location


@dataclass(frozen=True)
class StartingPoint:
    """The weights to load, and for ``train.adapter`` their base and an adapter that exists already."""

    weights: str | None
    """Folder, URI or hub id of a whole model; None: the configured towers."""
    base: AdapterBase | None = None
    adapter: Adapter | None = None
    """None: the run begins with new adapters."""


def starting_point(config: Config, start_from: str | None) -> StartingPoint:
    """Resolve the weights that a run starts from or resumes with; ``start_from`` may be an adapter.

    Raises ``UserError`` if an adapter belongs to other settings, or if its base is missing or has changed.
    """
    if not config.adapted:
        return StartingPoint(start_from)
    path = start_from or config.model.weights.llada_v
    assert path is not None  # the settings are checked
    adapter = adapter_in(model_location(path))
    if adapter is None:
        return StartingPoint(path, AdapterBase.of(path))
    adapter.check_settings(config.train.lora)
    return StartingPoint(adapter.checked_base(), adapter.base, adapter)
