"""Reading and writing weights and ``config.json`` in the released layouts.

Weights are read and written tensor by tensor, so that no second copy of the model is in memory.
"""

from lladav.checkpoint.adapter_export import export_adapter
from lladav.checkpoint.adapters import AdapterBase, adapter_in
from lladav.checkpoint.config_reading import model_config_of
from lladav.checkpoint.digest import weights_digest
from lladav.checkpoint.exporting import convert, export
from lladav.checkpoint.key_mapping import LAYOUTS
from lladav.checkpoint.loading import check_model, load, load_adapter, open_model
from lladav.checkpoint.shipped import shipped_model

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
    "open_model",
    "shipped_model",
    "weights_digest",
]
