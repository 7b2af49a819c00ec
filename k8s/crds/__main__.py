"""Extract KubeRay's schemas from a folder with its CRDs: ``python -m k8s.crds FOLDER``."""

from __future__ import annotations

import json
import lzma
import sys
from pathlib import Path

from k8s.crds import KUBERAY, extracted

if __name__ == "__main__":
    text = json.dumps(extracted(Path(sys.argv[1])), sort_keys=True, separators=(",", ":"))
    KUBERAY.write_bytes(lzma.compress(text.encode(), preset=9))
