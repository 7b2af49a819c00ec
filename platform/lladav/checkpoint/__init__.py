"""Reading and writing weights and ``config.json`` in the released layouts.

Weights are read and written tensor by tensor, so that no second copy of the model is in memory. What needs
torch is imported on first use, because some processes only read ``config.json`` and headers of weights.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lladav.checkpoint.config_reading import model_config_of
from lladav.checkpoint.digest import weights_digest
from lladav.checkpoint.key_mapping import LAYOUTS
from lladav.checkpoint.shipped import shipped_model

if TYPE_CHECKING:
    from lladav.checkpoint.adapter_export import export_adapter
    from lladav.checkpoint.adapter_opening import open_adapter, open_adapters
    from lladav.checkpoint.adapters import AdapterBase, adapter_in
    from lladav.checkpoint.exporting import convert, export
    from lladav.checkpoint.loading import check_model, load, load_adapter, open_model

__all__ = [
    "LAYOUTS",
    "AdapterBase",
    "adapter_in",
    "check_model",
    "convert",
    "export",
    "export_adapter",
    "load",
    "load_adapter",
    "model_config_of",
    "open_adapter",
    "open_adapters",
    "open_model",
    "shipped_model",
    "weights_digest",
]

_NEED_TORCH = {
    "AdapterBase": "adapters",
    "adapter_in": "adapters",
    "check_model": "loading",
    "convert": "exporting",
    "export": "exporting",
    "export_adapter": "adapter_export",
    "load": "loading",
    "load_adapter": "loading",
    "open_adapter": "adapter_opening",
    "open_adapters": "adapter_opening",
    "open_model": "loading",
}
"""Modules of the names that are imported on first use."""


def __getattr__(name: str) -> Any:
    """Import a name whose module needs torch."""
    if name not in _NEED_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_NEED_TORCH[name]}"), name)
    globals()[name] = value
    return value
