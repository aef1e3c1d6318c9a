"""The `rooflake` command as a person runs it, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def environment(**more: str) -> dict[str, str]:
    """This process's environment, with the project importable from any folder, and locks of devices apart from other programs'."""
    paths = os.pathsep.join(path for path in sys.path if path)
    return os.environ | {"PYTHONPATH": paths, "TMPDIR": os.environ["HOME"], **more}


def rooflake(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `rooflake words...` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "etl.cli", *map(str, words)],
        capture_output=True, text=True, timeout=120, check=False, cwd=cwd, env=environment(),
    )  # fmt: skip
