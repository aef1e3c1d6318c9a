"""Load generators side by side: what each says of a server whose times are known, and what it costs its machine.

    python -m benchmarks.endpoint --guidellm PATH --aiperf PATH --tokenizer FOLDER

Each tool in turn puts the same closed loop on a server of its own (tests/known_server.py) that logs, on this machine's monotonic clock,
when it really wrote each chunk. A tool's error is the arrival it says minus the nearest end of that interval (before and after the
write), so that the server's own lateness is nobody's. Processor time is all of a tool's processes from start to end, imports included;
medians of processor time and quotients between tools hold on a busy machine, errors need a quiet one.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(1, str(ROOT / "tests"))

from known_server import KnownServer, known  # noqa: E402

TTFT_S, GAP_S, TOKENS, WORDS = 0.2, 0.02, 64, 100
LIMIT_S = 900


@dataclass(frozen=True)
class Seen:
    """One request as a tool saw it. Times are on time.perf_counter; `key` is its number, or its id, in the server's log."""

    key: int | str
    first_s: float
    ttft_s: float
    tpot_s: float
    e2el_s: float


def ours(url: str, streams: int, count: int, folder: Path, options: argparse.Namespace) -> list[Seen]:
    run([sys.executable, "-m", "benchmarks.endpoint.ours", url, str(streams), str(count), str(folder / "ours.json")])
    return [Seen(**one) for one in json.loads((folder / "ours.json").read_text())]


def guidellm(url: str, streams: int, count: int, folder: Path, options: argparse.Namespace) -> list[Seen]:
    offset_s = time.time() - time.perf_counter()
    report = folder / "guidellm.json"
    run([
        options.guidellm, "run", "--backend", f"kind=openai_http,target={url.removesuffix('/v1')},model=m",
        "--profile", f"kind=concurrent,streams={streams}", "--constraint", f"kind=max_requests,count={count}",
        "--data", f"kind=synthetic_text,prompt_tokens={WORDS},output_tokens={TOKENS}",
        "--tokenizer", f"kind=huggingface_auto,model={options.tokenizer}", "--output", f"kind=json,path={report}",
        "--disable-console",
    ])  # fmt: skip
    (benchmark,) = json.loads(report.read_text())["benchmarks"]
    seen = []
    for one in benchmark["requests"]["successful"]:
        times = one["info"]["timings"]
        start_s, first_s, last_s = (
            times[name] - offset_s for name in ("request_start", "first_token_iteration", "last_token_iteration")
        )
        number = int(one["output"].split()[0])
        seen.append(Seen(number, first_s, first_s - start_s, (last_s - first_s) / (TOKENS - 1), last_s - start_s))
    return seen


def aiperf(url: str, streams: int, count: int, folder: Path, options: argparse.Namespace) -> list[Seen]:
    offset_s = time.time() - time.perf_counter()
    run([
        options.aiperf, "profile", "-m", "m", "--url", url.removesuffix("/v1"), "--endpoint-type", "chat", "--streaming",
        "--concurrency", str(streams), "--request-count", str(count), "--isl", str(WORDS), "--osl", str(TOKENS),
        "--tokenizer", options.tokenizer, "--ui", "none", "--output-artifact-dir", str(folder / "aiperf"), "--use-server-token-count",
        "--extra-inputs", f"max_tokens:{TOKENS}", "--no-gpu-telemetry", "--no-server-metrics",
    ])  # fmt: skip
    seen = []
    for line in (folder / "aiperf" / "profile_export.jsonl").read_text().splitlines():
        one = json.loads(line)
        metrics = {name: metric["value"] for name, metric in one["metrics"].items()}
        start_s = one["metadata"]["request_start_ns"] * 1e-9 - offset_s
        ttft_s, e2el_s = metrics["time_to_first_token"] * 1e-3, metrics["request_latency"] * 1e-3
        key = one["metadata"]["x_request_id"]
        seen.append(Seen(key, start_s + ttft_s, ttft_s, (e2el_s - ttft_s) / (TOKENS - 1), e2el_s))
    return seen


TOOLS: dict[str, Callable[[str, int, int, Path, argparse.Namespace], list[Seen]]] = {
    "rooflake": ours,
    "guidellm": guidellm,
    "aiperf": aiperf,
}


def run(words: list[str]) -> None:
    """Run a program to its end; what it says is shown where it fails."""
    settings = {"OMP_NUM_THREADS": "1", "DO_NOT_TRACK": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        words, cwd=ROOT, env={**os.environ, **settings}, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    if done.returncode:
        raise SystemExit(
            f"{words[0]} failed with exit status {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}"
        )


def children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measured(tool: str, streams: int, count: int, options: argparse.Namespace) -> dict[str, Any]:
    """One tool on one level: its errors, what it lost, what it cost."""
    with known(ttft_s=TTFT_S, gap_s=GAP_S, tokens=TOKENS) as server, tempfile.TemporaryDirectory() as folder:
        cpu_s, began_s = children_s(), time.perf_counter()
        seen = TOOLS[tool](server.url, streams, count, Path(folder), options)
        cpu_s, wall_s = children_s() - cpu_s, time.perf_counter() - began_s
        return {"tool": tool, "streams": streams, **judged(seen, server, count), "cpu_s": cpu_s, "wall_s": wall_s}


def judged(seen: list[Seen], server: KnownServer, count: int) -> dict[str, Any]:
    log = server.log()
    by_key = {entry["number"]: entry for entry in log} | {entry["id"]: entry for entry in log if entry["id"]}
    errors, slopes = [], []
    for one in seen:
        written = by_key[one.key]["written_s"]
        before_s, after_s = written[0]
        errors.append(max(one.first_s - after_s, 0.0) + min(one.first_s - before_s, 0.0))
        slopes.append(one.tpot_s / ((written[-1][1] - written[0][1]) / (len(written) - 1)) - 1)
    error_s, slope = np.abs(errors), np.abs(slopes)
    keys = [one.key for one in seen]
    return {
        "requests": len(seen),
        "lost": count - len(set(keys)),
        "doubled": len(keys) - len(set(keys)),
        "ttft_error_p50_s": float(np.median(error_s)),
        "ttft_error_p99_s": float(np.percentile(error_s, 99)),
        "tpot_error_p50": float(np.median(slope)),
        "tpot_error_p99": float(np.percentile(slope, 99)),
        "ttft_s": float(np.mean([one.ttft_s for one in seen])),
        "tpot_s": float(np.mean([one.tpot_s for one in seen])),
        "e2el_s": float(np.mean([one.e2el_s for one in seen])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tools", nargs="+", choices=list(TOOLS), default=list(TOOLS))
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 50, 200])
    parser.add_argument(
        "--requests", type=int, help="of a level; 20 x its streams, at least 20 and at most 1000, without it"
    )
    parser.add_argument("--guidellm", default="guidellm", help="its program")
    parser.add_argument("--aiperf", default="aiperf", help="its program")
    parser.add_argument("--tokenizer", help="folder of a tokenizer, which both want")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    rows = []
    print(f"cores: {os.cpu_count()}, load of the machine before: {os.getloadavg()[0]:.1f}")
    print(f"{'tool':9} streams requests lost doubled  TTFT error p50, p99 ms   TPOT error p50, p99 %   TTFT, TPOT, E2EL ms"
          "       CPU ms/request  requests/CPU-s  wall s")  # fmt: skip
    for streams in options.streams:
        count = options.requests or max(20, min(1000, 20 * streams))
        for tool in options.tools:
            row = measured(tool, streams, count, options)
            rows.append(row)
            print(
                f"{tool:9} {streams:7} {row['requests']:8} {row['lost']:4} {row['doubled']:7}"
                f"  {row['ttft_error_p50_s'] * 1e3:10.3f} {row['ttft_error_p99_s'] * 1e3:10.3f}"
                f"  {row['tpot_error_p50'] * 100:12.3f} {row['tpot_error_p99'] * 100:9.3f}"
                f"  {row['ttft_s'] * 1e3:10.2f} {row['tpot_s'] * 1e3:7.3f} {row['e2el_s'] * 1e3:8.1f}"
                f"  {row['cpu_s'] / row['requests'] * 1e3:14.2f}  {row['requests'] / row['cpu_s']:14.1f}  {row['wall_s']:6.1f}",
                flush=True,
            )
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
