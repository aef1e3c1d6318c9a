"""The analytical engine beside its peers: `python benchmarks/analytical [speed | accuracy] [options of that one]`; both without."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

NAMES = ("speed", "accuracy")


def main() -> None:
    sys.path.insert(0, str(Path(__file__).parent))
    asked = sys.argv[1:]
    if asked and asked[0] in ("-h", "--help"):
        print(__doc__)
        return
    if asked and asked[0] not in NAMES:
        sys.exit(f"'{asked[0]}' is not a benchmark of the engine. Known: {', '.join(NAMES)}.")
    for name in asked[:1] or NAMES:
        print(f"== {name}", flush=True)
        sys.argv = [name, *asked[1:]]
        importlib.import_module(name).main()


if __name__ == "__main__":
    main()
