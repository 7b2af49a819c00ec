"""A short name for the weights of a checkpoint, which changes when any part of the model is trained.

Only headers and some bytes of each tensor are read, so that it takes milliseconds for gigabytes.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lladav.checkpoint.index import ADAPTER_CONFIG, read_json, stored_tensors
from lladav.storage import exists, model_location

SAMPLE_BYTES = 64
"""Bytes that are read from the middle of each tensor."""
READERS = 16
"""Tensors that are read at a time: an object store answers each read after tens of milliseconds."""


def weights_digest(path: str | Path) -> str:
    """Return 16 hexadecimal digits: the same for the same weights, wherever they are stored.

    ``path`` is a file, a folder, a URI or a hub id. The digest of an adapter covers its scaling. Raises
    ``UserError`` if the weights cannot be read.
    """
    location = model_location(path)
    tensors = sorted(stored_tensors(location).values(), key=lambda tensor: tensor.name)
    digest = hashlib.blake2b(digest_size=8)
    if not location.is_file() and exists(location / ADAPTER_CONFIG):
        digest.update(f"lora_alpha {read_json(location / ADAPTER_CONFIG).get('lora_alpha')} ".encode())
    with ThreadPoolExecutor(READERS) as readers:
        samples = readers.map(lambda tensor: tensor.sample(SAMPLE_BYTES), tensors)
        for tensor, sample in zip(tensors, samples, strict=True):
            digest.update(f"{tensor.name} {tensor.dtype} {tensor.shape} ".encode() + sample)
    return digest.hexdigest()
