"""Print the requirements of the image: the dependencies, and the extras that its pods may need.

Runs in the folder of ``pyproject.toml`` and needs only the standard library.
"""

import tomllib
from pathlib import Path

if __name__ == "__main__":
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    print(
        "\n".join(
            [
                *project["dependencies"],
                *optional["video"],
                *optional["cluster"],
                *optional["s3"],
                *optional["gcs"],
                *optional["trackers"],
            ]
        )
    )
