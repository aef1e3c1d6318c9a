"""The league: every predictor on every board, beside the baselines, on frozen splits of a lakehouse with the public rows.

    python -m benchmarks.predictors --home HOME                      every board; results go to RESULTS.md and into the lakehouse
    python -m benchmarks.predictors --home HOME --board vidur-gemm-llm --external my_module:MyPredictor
    python -m benchmarks.predictors --home HOME --limit 2000         a quick look: nothing is written

An external predictor is a class without arguments that has `name`, `fit(rows, target)` and `predict(rows)`
(models/learned/contenders.py). Boards of one topic are the tuple BOARDS of one file beside this one. Results are kept in
HOME/league.json, so that boards may be run a few at a time; RESULTS.md is always written from all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # two threads on two busy cores train thirty times slower

from benchmarks.predictors import league  # noqa: E402
from models.learned import contenders  # noqa: E402
from warehouse.store import Home  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True, help="home folder of a lakehouse with the public rows")
    parser.add_argument("--board", nargs="+", metavar="KEY", help="some boards; default: all")
    parser.add_argument("--jobs", type=int, default=2, help="boards at a time")
    parser.add_argument("--external", nargs="+", default=[], metavar="MODULE:CLASS", help="contenders of your own")
    parser.add_argument("--limit", type=int, help="rows of each board, drawn by content; nothing is written then")
    parser.add_argument("--out", type=Path, help="where all results are kept; default HOME/league.json")
    parser.add_argument("--list", action="store_true", help="list the boards and end")
    asked = parser.parse_args()
    known = league.boards()
    if asked.list:
        print("\n".join(f"{key:34} {board.title}" for key, board in known.items()))
        return
    if unknown := sorted(set(asked.board or []) - set(known)):
        parser.error(f"{', '.join(unknown)}: no board. Known: {', '.join(known)}. Add it in benchmarks/predictors/.")
    try:
        for spec in asked.external:
            contenders.named(spec)  # a sentence now rather than in a process
    except ValueError as error:
        parser.error(str(error))
    if not Home.of(asked.home).exists:
        parser.error(f"'{asked.home}' holds no lakehouse. Make one with `rooflake import --home {asked.home}`.")
    chosen = [replace(known[key], limit=asked.limit or known[key].limit) for key in asked.board or known]
    found = dict(league.run_all(chosen, asked.home, asked.external, asked.jobs))
    league.print_table([one for one in found.values() if "scores" in one])
    if asked.limit is not None:
        return
    path = asked.out or asked.home / "league.json"
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    kept |= {key: one for key, one in found.items() if "scores" in one}
    path.write_text(json.dumps({key: kept[key] for key in sorted(kept)}, indent=1) + "\n", encoding="utf-8")
    league.RESULTS.write_text(league.markdown([kept[key] for key in known if key in kept], known), encoding="utf-8")
    league.store_scores([one for one in found.values() if "scores" in one], known, asked.home)
    print(f"{path}, {league.RESULTS.relative_to(ROOT)}")
    if any("scores" not in one for one in found.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
