"""All checks of the manifests that need no cluster: ``python -m k8s.check`` or ``make k8s-check``.

Builds each overlay as it is applied, with and without its optional components, and also checks the
Dockerfile and the files that are generated from ``conf``. Prints a line per mistake; exit code 1 if there is
one.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "platform")]

from k8s import costs, jobs  # noqa: E402 - the path comes first
from k8s.checks import (  # noqa: E402
    alerts,
    capacity,
    disruption,
    draining,
    kinds,
    kuberay_validation,
    network,
    nodes,
    policies,
    schema,
    serving,
    training,
)
from k8s.manifests import FOLDER, Resource, build, title, with_component  # noqa: E402
from lladav.config.cli import one_line_errors  # noqa: E402

OPTIONS = {
    "dev-cpu": ("external-scaling", "incremental-upgrade", "monitoring", "network-node-local-dns"),
    "gpu": ("external-scaling", "incremental-upgrade", "kueue", "monitoring", "network-eks", "volcano"),
    "spot": ("monitoring", "network-azure", "network-gke", "volcano"),
}
"""Optional components per overlay; each is checked on top of it."""


def of_overlay(overlay: str, resources: list[Resource], component: str | None = None) -> Iterator[str]:
    """The mistakes in the objects of an overlay, with an optional component or without."""
    for resource in resources:
        yield from _of_resource(json.dumps(resource))
    for module in (policies, network, disruption):
        yield from module.check(resources)
    yield from kinds.check(resources, component)
    yield from nodes.check(overlay, resources)


@cache
def _of_resource(text: str) -> list[str]:
    """The mistakes in one object, as JSON. A component leaves most objects of an overlay as they are."""
    resource = json.loads(text)
    lines = list(schema.check(resource))
    for module in (kuberay_validation, capacity, draining, serving, training, alerts):
        lines += [f"{title(resource)}: {line}" for line in module.check(resource)]
    return lines


def of_files() -> Iterator[str]:
    """Files generated from ``conf`` that are out of date, and mistakes in the Dockerfile."""
    for overlay, profile in jobs.PROFILES.items():
        file = FOLDER / "overlays" / overlay / "jobs.yaml"
        if file.read_text(encoding="utf-8") != jobs.text(profile):
            yield f"{file.relative_to(ROOT)}: is out of date; run python -m k8s.jobs"
    if costs.table() not in (FOLDER / "README.md").read_text(encoding="utf-8"):
        yield "k8s/README.md: the table of costs is out of date; run python -m k8s.jobs"
    yield from linted()


def linted() -> Iterator[str]:
    """The findings of hadolint in the Dockerfile."""
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or "hadolint"
    found = subprocess.run(
        [hadolint, str(FOLDER / "Dockerfile")], capture_output=True, text=True, check=False
    )
    yield from found.stdout.splitlines()


def main() -> int:
    with one_line_errors():
        mistakes = _report("files", list(of_files()))
        for overlay, components in OPTIONS.items():
            folder = FOLDER / "overlays" / overlay
            mistakes += _report(overlay, list(of_overlay(overlay, build(folder))))
            for component in components:
                changed = with_component(folder, component)
                lines = list(of_overlay(overlay, changed, component))
                mistakes += _report(f"{overlay} with {component}", lines)
    return int(bool(mistakes))


def _report(name: str, lines: list[str]) -> list[str]:
    print(f"{name}: {'ok' if not lines else ''}")
    for line in lines:
        print(f"  {line}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
