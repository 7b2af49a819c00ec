"""A program that stands in for an interpreter with LMMs-Eval: it logs what LMMs-Eval would log."""

from __future__ import annotations

import sys
from pathlib import Path

# The shell starts Python: the line that names an interpreter cannot hold a path with spaces.
STANDS_IN = """\
#!/bin/sh
'''exec' "{python}" "$0" "$@"
' '''
import json, os, pathlib, sys
arguments = sys.argv[1:]
output = pathlib.Path(arguments[arguments.index("--output_path") + 1]) / "model"
output.mkdir(exist_ok=True)
record = {{"arguments": arguments, "folder": os.getcwd(), "offline": os.environ.get("HF_HUB_OFFLINE")}}
if {writes}:
    answers = [{{"doc_id": n, "filtered_resps": [f"answer {{n}}"], "right": n == 1}} for n in (1, 0)]
    lines = [json.dumps({{**record, **answer}}) for answer in answers]
    (output / "2026_samples_mme.jsonl").write_text("\\n".join(lines))
    (output / "2026_results.json").write_text(json.dumps({{"throughput": {{"avg_speed": 2.5}}}}))
print("the reason")
sys.exit({code})
"""


def stand_in(folder: Path, writes: bool = True, code: int = 0) -> Path:
    """Write the program; it logs answers only if it ``writes``, and ends with ``code``."""
    program = folder / "python"
    program.write_text(STANDS_IN.format(python=sys.executable, writes=writes, code=code))
    program.chmod(0o755)
    return program
