"""Every check of the manifests that needs no cluster: ``python -m k8s.check`` or ``make k8s-check``.

Each overlay is built as it is applied, with and without the components that are options; then come the
Dockerfile, the alerts, and what is made from ``conf``. Exit code 1 where anything is wrong, a line for each.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "platform")]

from k8s import costs, jobs  # noqa: E402 - the path comes first
from k8s.checks import alerts, capacity, house_rules, operator_rules, schema, serving  # noqa: E402
from k8s.manifests import FOLDER, Resource, build, title, with_component  # noqa: E402
from lladav.config.cli import one_line_errors  # noqa: E402

OPTIONS = {
    "dev-cpu": ("external-scaling", "incremental-upgrade"),
    "gpu": ("external-scaling", "incremental-upgrade", "kueue", "volcano"),
    "spot": ("kueue", "volcano"),
}
"""Components that an overlay may be given, each checked on top of it."""


def of_overlay(resources: list[Resource]) -> Iterator[str]:
    """Everything that is wrong with the objects of an overlay."""
    for resource in resources:
        yield from schema.check(resource)
        for check in (operator_rules.check, capacity.check, serving.check, alerts.check):
            yield from (f"{title(resource)}: {line}" for line in check(resource))
    yield from house_rules.check(resources)


def of_files() -> Iterator[str]:
    """What is made from ``conf`` is as it would be made now, and the Dockerfile is in order."""
    for overlay, profile in jobs.PROFILES.items():
        file = FOLDER / "overlays" / overlay / "jobs.yaml"
        if file.read_text(encoding="utf-8") != jobs.text(profile):
            yield f"{file.relative_to(ROOT)}: is not what conf gives; run python -m k8s.jobs"
    if costs.table() not in (FOLDER / "README.md").read_text(encoding="utf-8"):
        yield "k8s/README.md: its table of costs is not what conf gives; run python -m k8s.jobs"
    yield from linted()


def linted() -> Iterator[str]:
    """What hadolint says of the Dockerfile."""
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or "hadolint"
    found = subprocess.run(
        [hadolint, str(FOLDER / "Dockerfile")], capture_output=True, text=True, check=False
    )
    yield from found.stdout.splitlines()


def main() -> int:
    with one_line_errors():
        wrong = _told("files", list(of_files()))
        for overlay, components in OPTIONS.items():
            folder = FOLDER / "overlays" / overlay
            wrong += _told(overlay, list(of_overlay(build(folder))))
            for component in components:
                changed = with_component(folder, component)
                wrong += _told(f"{overlay} with {component}", list(of_overlay(changed)))
    return int(bool(wrong))


def _told(what: str, lines: list[str]) -> list[str]:
    print(f"{what}: {'ok' if not lines else ''}")
    for line in lines:
        print(f"  {line}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
