"""Weights in the released layouts: names, files and ``config.json``, in and out.

Reading and writing go tensor by tensor, so neither ever holds a second model.
"""

from lladav.checkpoint.config_reading import model_config_of
from lladav.checkpoint.exporting import convert, export
from lladav.checkpoint.key_mapping import LAYOUTS
from lladav.checkpoint.loading import check_model, load, open_model

__all__ = ["LAYOUTS", "check_model", "convert", "export", "load", "model_config_of", "open_model"]
