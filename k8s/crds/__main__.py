"""Extract KubeRay's schemas from a folder with its CRDs: ``python -m k8s.crds FOLDER``.

The folder of a release is ``helm-chart/kuberay-operator/crds`` in KubeRay's repository.
"""

from __future__ import annotations

import sys
from pathlib import Path

from k8s.crds import KUBERAY, packed

if __name__ == "__main__":
    KUBERAY.write_bytes(packed(Path(sys.argv[1])))
