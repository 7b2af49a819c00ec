"""Weights and tokenizers by their id on the Hugging Face hub, as in ``GSAI-ML/LLaDA-V``.

An id is resolved in the local cache of ``huggingface_hub`` only; nothing is downloaded. Each machine resolves
it in its own cache, so an id passes between machines unchanged. A path that exists is never an id.
"""

from __future__ import annotations

import re
from pathlib import Path

from upath import UPath

from lladav.errors import UserError
from lladav.storage.locations import absolute, location

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_hub_id(text: str) -> bool:
    """Whether ``text`` has the form ``OWNER/NAME`` and is no path on this machine."""
    return _ID.fullmatch(text) is not None and not Path(text).exists()


def model_location(model: str | Path | UPath) -> UPath:
    """Return the location of weights or a tokenizer: a path, a URI, or the cached folder of a hub id.

    Raises ``UserError`` for a hub id that is not in the cache, and as ``location`` does.
    """
    text = str(model)
    return location(_cached_folder(text)) if is_hub_id(text) else location(model)


def absolute_model(text: str) -> str:
    """Return the path or URI as text that does not depend on the working directory; a hub id unchanged."""
    return text if is_hub_id(text) else absolute(text)


def _cached_folder(hub_id: str) -> str:
    # Imported here: it takes a third of a second, and most commands name folders.
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return snapshot_download(hub_id, local_files_only=True)
    except (LocalEntryNotFoundError, HFValidationError):
        raise UserError(
            f"{hub_id}: no such folder here, and no such model in the cache of the Hugging Face hub, "
            f"{HF_HUB_CACHE}; run: hf download {hub_id}, or copy it to a folder and name that"
        ) from None
