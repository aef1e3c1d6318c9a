"""Run one collector: `python -m collectors NAME --landing DIR [options]`. Needs no more than that collector imports.

`python -m collectors campaign NAME` runs a campaign's sweeps inside one time window; `python -m collectors pack` gathers what
landed into the few files of a dataset; `python -m collectors import FILE...` reads other tools' result files.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import collectors
from collectors import _errors


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__)
        print("collectors:", ", ".join(collectors.names()))
        return 0 if argv else 2
    command = {"campaign": _campaign, "pack": _pack, "import": _import}.get(argv[0], _collect)
    try:
        return command(*argv)
    except KeyboardInterrupt:
        _say("Interrupted; what landed is whole.")
        return 130
    except Exception as error:
        if not _errors.is_sentence(error):
            raise
        print(error, file=sys.stderr)
        return 2


def _collect(name: str, *words: str) -> int:
    collector = collectors.find(name)
    parser = _parser(name, collector.__doc__)
    collector.add_arguments(parser)
    options = vars(parser.parse_args(words))
    landing = options.pop("landing")
    with _errors.explained(landing):
        collected = collector.collect(landing, report=_say, **options)
    for path in collected.paths:
        print(path)
    _say(f"{collected.num_runs} runs landed, {collected.num_failed} of them failures.")
    return 1 if collected.is_failure else 0


def _campaign(name: str, *words: str) -> int:
    from collectors import _campaign as campaign

    parser = _parser(name, campaign.__doc__)
    parser.add_argument("name", help="a TOML file, or the name of one in collectors/campaigns")
    parser.add_argument("--part", nargs="+", default=(), help="parts of it to run; default: all")
    parser.add_argument("--budget-s", type=float, help="seconds for everything; default: no limit")
    parser.add_argument("--device", help="auto, cpu or cuda, where a sweep names none")
    options = parser.parse_args(words)
    outcome = campaign.run(
        options.name, options.landing, parts=options.part, budget_s=options.budget_s, device=options.device, report=_say
    )
    _say(f"{outcome.collected.num_runs} runs landed, {outcome.collected.num_failed} of them failures.")
    for sentence in outcome.failures:
        _say(f"Failed: {sentence}")
    return 1 if outcome.failures else 0


def _pack(name: str, *words: str) -> int:
    from collectors import _dataset

    parser = _parser(name, _dataset.__doc__)
    parser.add_argument("folder", type=Path, help="folder to make, named like the dataset: h100-sxm-2026-11-21")
    options = parser.parse_args(words)
    for path in _dataset.pack(options.landing, options.folder):
        print(path)
    return 0


def _import(name: str, *words: str) -> int:
    from collectors import _importing

    parser = _parser(
        name, "Result files of other tools: each is recognised by its content, checked, and landed whole or not at all."
    )
    _importing.add_arguments(parser)
    parser.add_argument("--tool", help=f"tool that wrote them: {', '.join(_importing.tools())}; default: recognised")
    options = vars(parser.parse_args(words))
    landing = options.pop("landing")
    with _errors.explained(landing):
        collected = _importing.collect(landing, report=_say, **options)
    for path in collected.paths:
        print(path)
    return 0


def _parser(name: str, description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m collectors {name}", description=description)
    parser.add_argument(
        "--landing", type=Path, default=Path("rooflake-data/landing"), help="folder the Parquet is written to"
    )
    return parser


def _say(line: str) -> None:
    print(line, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
