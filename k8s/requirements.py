"""Print what the image installs: the project's dependencies, and those of videos, clusters and object stores.

Run in the folder of ``pyproject.toml``, by a Python that has nothing installed yet.
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
            ]
        )
    )
