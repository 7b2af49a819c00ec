"""A cache of the Hugging Face hub, as ``hf download`` leaves it."""

from __future__ import annotations

import shutil
from pathlib import Path

COMMIT = "9852b89" + 33 * "0"


def cache_model(home: Path, hub_id: str, folder: Path) -> Path:
    """Put the files of ``folder`` under ``hub_id`` into the cache below ``home``, the folder of ``HF_HOME``.

    Returns the folder of the snapshot.
    """
    repository = home / "hub" / f"models--{hub_id.replace('/', '--')}"
    snapshot, blobs = repository / "snapshots" / COMMIT, repository / "blobs"
    for path in (snapshot, blobs, repository / "refs"):
        path.mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    for number, file in enumerate(sorted(folder.iterdir())):
        shutil.copyfile(file, blobs / str(number))
        (snapshot / file.name).symlink_to(blobs / str(number))
    return snapshot
