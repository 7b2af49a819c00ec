"""Print the pods that controllers create from an overlay: ``python -m k8s.pods FOLDER``.

The API server sees the pods of a RayJob or a RayService only when KubeRay creates them; until then a dry run
of the overlay does not show that your cluster refuses one. With the namespace and the priorities in place:

    python -m k8s.pods k8s/overlays/gpu | kubectl create --dry-run=server -f -

asks the API server and its admission policies. The containers that KubeRay adds are left out.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "platform")]

import yaml  # noqa: E402 - the path comes first

from k8s.manifests import Resource, build, pod_templates  # noqa: E402
from lladav.config.cli import one_line_errors  # noqa: E402
from lladav.errors import UserError  # noqa: E402


def pods(resources: Sequence[Resource]) -> Iterator[Resource]:
    """A pod of each pod template, in the namespace of its owner."""
    for owner in resources:
        for _, template in pod_templates(owner):
            metadata = {
                **template.get("metadata", {}),
                "generateName": f"{owner['metadata']['name']}-",
                "namespace": owner["metadata"]["namespace"],
            }
            yield {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


if __name__ == "__main__":
    with one_line_errors():
        if len(sys.argv) != 2:
            raise UserError("name one overlay, as in python -m k8s.pods k8s/overlays/gpu")
        print(yaml.safe_dump_all(pods(build(Path(sys.argv[1])))))
