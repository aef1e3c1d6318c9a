"""Run one collector: `python -m collectors NAME --landing DIR [options]`. Needs no more than that collector imports."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import collectors


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__)
        print("collectors:", ", ".join(collectors.names()))
        return 0 if argv else 2
    try:
        collector = collectors.find(argv[0])
    except LookupError as error:
        print(error, file=sys.stderr)
        return 2
    parser = argparse.ArgumentParser(prog=f"python -m collectors {argv[0]}", description=collector.__doc__)
    parser.add_argument(
        "--landing", type=Path, default=Path("rooflake-data/landing"), help="folder the Parquet is written to"
    )
    collector.add_arguments(parser)
    options = vars(parser.parse_args(argv[1:]))
    landing = options.pop("landing")
    try:
        collected = collector.collect(landing, report=lambda line: print(line, file=sys.stderr), **options)
    except (LookupError, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    for path in collected.paths:
        print(path)
    print(f"{collected.num_runs} runs landed, {collected.num_failed} of them failures.", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
