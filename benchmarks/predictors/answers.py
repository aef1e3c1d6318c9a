"""How long a whole catalogue takes: every LLM on every device, one phase, with features, predictors, intervals and fits.

    python -m benchmarks.predictors.answers --home DIR [--phase decode]

Prints configurations, the best of three times, and what the analytical totals alone take of it. One process, one thread.
"""

from __future__ import annotations

import argparse
import time

from etl import predictions
from models.learned import answering
from warehouse.store import Home, open_store

GOAL_S = 2.0
LENGTHS = {"decode": 512, "prefill": 512, "forward": 512, "generate": 512}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", required=True, help="a lake with promoted predictors")
    parser.add_argument("--phase", default="decode", choices=sorted(LENGTHS))
    arguments = parser.parse_args()
    with open_store(Home.of(arguments.home), read_only=True) as store:
        known = predictions.known(store, print)
        lengths = {"tokens": LENGTHS[arguments.phase], "output_tokens": 128 if arguments.phase == "generate" else None}
        columns = {**predictions.dtypes("fp16"), "batch_size": 1}
        configs = predictions.catalogue(store, known, None, None, arguments.phase, lengths, columns, print)
    whole, totals = [], []
    for _ in range(3):
        started = time.perf_counter()
        answering.questions(configs, known)
        totals.append(time.perf_counter() - started)
        started = time.perf_counter()
        answered = answering.answer(configs, known)
        answered.table()
        answered.chance_of_fitting()
        whole.append(time.perf_counter() - started)
    best = min(whole)
    print(predictions.counted(answered))
    print(
        f"{len(answered)} configurations, {len(answered.columns)} metrics each, in {best:.2f} s ({len(answered) / best:,.0f} a second); "
        f"analytical totals and shapes alone {min(totals):.2f} s. Goal {GOAL_S:g} s: {'met' if best <= GOAL_S else 'missed'}."
    )


if __name__ == "__main__":
    main()
