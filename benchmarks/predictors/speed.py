"""How fast the predictor of matrix products is fitted and answers, and how large it is. Rates of one run on this machine:

    python -m benchmarks.predictors.speed --home HOME

What is timed is the method that is scored: rows of the query (Arrow) -> features -> value, interval and support of every row. Two
cores are two processes, each with half of the rows; their start is not timed.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402

from benchmarks.predictors.board import Board, tidy_rows  # noqa: E402
from models.learned.contenders import balance  # noqa: E402
from models.learned.fitted import Fitted  # noqa: E402
from models.learned.inputs import number  # noqa: E402
from models.learned.subjects import find  # noqa: E402
from warehouse.store import open_store  # noqa: E402

TARGET = "gemm_time"
FITTED_ROWS = 50_000
PREDICTED_ROWS = 400_000
TRIES = 3
_T = TypeVar("_T")

_fitted: list[Fitted] = []
"""What a process answers with."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True, help="home folder of a lakehouse with the public rows")
    asked = parser.parse_args()
    with open_store(asked.home, read_only=True) as store:
        rows = tidy_rows(Board("speed", "", TARGET, "random", limit=FITTED_ROWS), store, lambda note: None)
    target = find(TARGET)
    log_target = np.log(number(rows, target.column))
    print(
        f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; seconds are those of the processor"
    )

    def fit(dimensions: tuple[str, ...]) -> Fitted:
        inputs = target.inputs(rows)
        return Fitted.on(target.recipe(len(inputs)), inputs, log_target, dimensions, balance(inputs, target.balance))

    seconds, _ = timed(lambda: fit(()), 1)
    print(f"fit of {len(rows)} rows: {seconds:.1f} s of one core")
    seconds, fitted = timed(lambda: fit(target.dimensions), 1)
    print(f"with the intervals of {', '.join(target.dimensions)}: {seconds:.1f} s")
    text = json.dumps(fitted.to_dict())
    print(f"artifact: {zipped(text) / 1e6:.2f} MB zipped, {len(text) / 1e6:.2f} MB as text")
    questions = rows.drop_columns([target.column])
    many = pa.concat_tables([questions] * -(-PREDICTED_ROWS // len(rows))).slice(0, PREDICTED_ROWS)
    answering = Fitted.from_dict(json.loads(text))
    seconds, _ = timed(lambda: answering.predict(target.inputs(many)), TRIES)
    print(f"1 core: {len(many) / seconds:,.0f} predictions/s, best of {TRIES}")
    halves = [many.slice(0, len(many) // 2), many.slice(len(many) // 2)]
    with ProcessPoolExecutor(2, mp_context=get_context("fork"), initializer=_load, initargs=(text, halves)) as pool:
        slowest = min(max(pool.map(_answer, (0, 1))) for _ in range(TRIES))
        started = time.perf_counter()
        list(pool.map(_answer, (0, 1)))
        wall = time.perf_counter() - started
    print(
        f"2 cores: {len(many) / slowest:,.0f} predictions/s, best of {TRIES}; by the clock on the wall {len(many) / wall:,.0f}"
    )
    one = questions.slice(0, 1)
    seconds, _ = timed(lambda: answering.predict(target.inputs(one)), 20)
    print(f"one row: {seconds * 1e3:.1f} ms")


def timed(work: Callable[[], _T], tries: int) -> tuple[float, _T]:
    """Least processor seconds of some tries (what a free core takes, however busy the machine is), and what the last gave."""
    best = float("inf")
    for _ in range(tries):
        started = time.process_time()
        found = work()
        best = min(best, time.process_time() - started)
    return best, found


def zipped(text: str) -> int:
    """Bytes of a text in a zip file."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("predictor.json", text)
    return len(file.getvalue())


_halves: list[pa.Table] = []


def _load(text: str, halves: list[pa.Table]) -> None:
    _fitted.append(Fitted.from_dict(json.loads(text)))
    _halves.extend(halves)


def _answer(half: int) -> float:
    """Processor seconds that half of the rows take."""
    return timed(lambda: _fitted[0].predict(find(TARGET).inputs(_halves[half])), 1)[0]


if __name__ == "__main__":
    main()
