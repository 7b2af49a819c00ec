"""Calls in a separate interpreter, where modules and environment variables may be patched.

Servers of other tests run in threads of the test process: patching ``time.time`` or ``HTTPS_PROXY`` there
would change them too.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[1]
PROGRAM = """
import pickle, sys
result = pickle.load(sys.stdin.buffer)()
with open(sys.argv[1], "wb") as file:
    pickle.dump(result, file)
"""


def apart(function: Callable[..., T], *arguments: Any, **variables: str) -> T:
    """Call ``function(*arguments)`` in a new interpreter, with ``variables`` added to its environment.

    The function must be importable from a module; the arguments and the result must be picklable. Raises
    ``AssertionError`` with the traceback if the call fails.
    """
    paths = os.pathsep.join([str(ROOT), str(ROOT / "platform")])
    with tempfile.NamedTemporaryFile() as result:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, result.name],
            input=pickle.dumps(partial(function, *arguments)),
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": paths, **variables},
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        return pickle.loads(result.read())
