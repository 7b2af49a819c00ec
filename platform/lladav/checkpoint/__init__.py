"""Reading and writing weights and ``config.json`` in the released layouts.

Weights are read and written tensor by tensor, so that no second copy of the model is in memory.
"""

from lladav.checkpoint.config_reading import model_config_of
from lladav.checkpoint.digest import weights_digest
from lladav.checkpoint.exporting import convert, export
from lladav.checkpoint.key_mapping import LAYOUTS
from lladav.checkpoint.loading import check_model, load, open_model

__all__ = [
    "LAYOUTS",
    "check_model",
    "convert",
    "export",
    "load",
    "model_config_of",
    "open_model",
    "weights_digest",
]
