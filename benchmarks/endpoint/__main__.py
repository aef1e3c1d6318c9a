"""Load generators side by side: what each says of a server whose times are known, and what it costs its machine.

    python -m benchmarks.endpoint --guidellm PATH --aiperf PATH --tokenizer FOLDER --streams 1 50 200
    python -m benchmarks.endpoint --quick

The tools put the same closed loop, one after the other, on one running server (tests/known_server.py) that logs, on this machine's
monotonic clock, the times just before and just after it wrote each chunk. A tool's error of TTFT is printed twice: the distance of
the arrival it says from that interval, in which the chunk really left, and from the time before the write alone, which counts against
the tool what the server's own write took (it may be suspended in it). How late the server was to write is printed beside: it is in
neither. Processor time is all of a tool's processes from start to end, imports included. The second table says which figures of the
tools agree within 1 %, as `agreement` says. Processor time and its quotients hold on a busy machine; errors need a quiet one.
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
sys.path[1:1] = [str(ROOT), str(ROOT / "tests")]

from known_server import known  # noqa: E402

from benchmarks.endpoint import agreement  # noqa: E402

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


Result = tuple[list[Seen], agreement.Figures]
"""What a tool saw of each request, and its figures of the whole run."""


def ours(url: str, streams: int, count: int, folder: Path, options: argparse.Namespace) -> Result:
    run([sys.executable, "-m", "benchmarks.endpoint.ours", url, str(streams), str(count), str(folder / "ours.json")])
    said = json.loads((folder / "ours.json").read_text())
    return [Seen(**one) for one in said["seen"]], agreement.Figures(said["columns"], said["definitions"])


def guidellm(url: str, streams: int, count: int, folder: Path, options: argparse.Namespace) -> Result:
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
    return seen, agreement.imported(report)


def aiperf(url: str, streams: int, count: int, folder: Path, options: argparse.Namespace) -> Result:
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
    return seen, agreement.imported(folder / "aiperf" / "profile_export_aiperf.json")


TOOLS: dict[str, Callable[[str, int, int, Path, argparse.Namespace], Result]] = {
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


def level(streams: int, count: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """All tools on one server: prints how each did and how they agree; one row a tool."""
    rows, figures, logs = [], {}, {}
    with known(ttft_s=TTFT_S, gap_s=GAP_S, tokens=TOKENS) as server, tempfile.TemporaryDirectory() as folder:
        num_before = 0
        for tool in options.tools:
            cpu_s, began_s = children_s(), time.perf_counter()
            seen, figures[tool] = TOOLS[tool](server.url, streams, count, Path(folder), options)
            cpu_s, wall_s = children_s() - cpu_s, time.perf_counter() - began_s
            log = server.log()
            entries, num_before = log[num_before:], len(log)
            logs[tool] = agreement.logged([entry for entry in entries if len(entry["written_s"]) == TOKENS])
            row = {"tool": tool, "streams": streams, **judged(seen, entries, count), "cpu_s": cpu_s, "wall_s": wall_s}
            print(line(row), flush=True)
            rows.append(
                row
                | {
                    "figures": {name: figures[tool].value(name, TOKENS) for name in agreement.MEANINGS},
                    "log": logs[tool],
                }
            )
    print("\n" + "\n".join(agreement.table(options.tools[0], figures, logs, TOKENS)) + "\n", flush=True)
    return rows


def judged(seen: list[Seen], entries: list[dict[str, Any]], count: int) -> dict[str, Any]:
    """How far a tool's times are from those of the server's log of its requests, and what it lost."""
    by_key = {entry["number"]: entry for entry in entries} | {entry["id"]: entry for entry in entries if entry["id"]}
    outside, from_begin, slopes = [], [], []
    for one in seen:
        written = by_key[one.key]["written_s"]
        before_s, after_s = written[0]
        outside.append(max(one.first_s - after_s, before_s - one.first_s, 0.0))
        from_begin.append(abs(one.first_s - before_s))
        slopes.append(abs(one.tpot_s / ((written[-1][0] - before_s) / (len(written) - 1)) - 1))
    late = [
        before - due for entry in entries for due, (before, _) in zip(entry["due_s"], entry["written_s"], strict=True)
    ]
    keys = [one.key for one in seen]
    return {
        "requests": len(seen),
        "sent": len(entries),
        "lost": count - len(set(keys)),
        "doubled": len(keys) - len(set(keys)),
        **spread("ttft_outside", outside),
        **spread("ttft_from_begin", from_begin),
        **spread("tpot", slopes),
        **spread("server_late", late),
    }


def spread(name: str, errors: list[float]) -> dict[str, float]:
    return {f"{name}_p50": float(np.median(errors)), f"{name}_p99": float(np.percentile(errors, 99))}


HEAD = (
    f"{'tool':9} streams requests  sent lost doubled   TTFT off the write  TTFT off its begin      TPOT error     server late"
    "   CPU ms/request  requests/CPU-s  wall s\n"
    f"{'':45}{'p50, p99 ms':>17}{'p50, p99 ms':>20}{'p50, p99 %':>16}{'p50, p99 ms':>16}"
)


def line(row: dict[str, Any]) -> str:
    def pair(name: str, scale: float) -> str:
        return f"{row[f'{name}_p50'] * scale:.3f} {row[f'{name}_p99'] * scale:.3f}"

    return (
        f"{row['tool']:9} {row['streams']:7} {row['requests']:8} {row['sent']:5} {row['lost']:4} {row['doubled']:7}"
        f"{pair('ttft_outside', 1e3):>21}{pair('ttft_from_begin', 1e3):>20}{pair('tpot', 100):>16}{pair('server_late', 1e3):>16}"
        f"{row['cpu_s'] / row['requests'] * 1e3:17.2f}{row['requests'] / row['cpu_s']:16.1f}{row['wall_s']:8.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--tools", nargs="+", choices=list(TOOLS), help="ours and those of which the program is given, without it"
    )
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 50, 200])
    parser.add_argument("--requests", type=int, help="of a level; 20 x its streams, at most 1000, without it")
    parser.add_argument("--quick", action="store_true", help="ours alone, 4 requests a stream, at most 200")
    parser.add_argument("--guidellm", help="its program")
    parser.add_argument("--aiperf", help="its program")
    parser.add_argument("--tokenizer", help="folder of a tokenizer, which both want")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    given = ["rooflake", *(tool for tool in ("guidellm", "aiperf") if getattr(options, tool))]
    options.tools = ["rooflake"] if options.quick else options.tools or given
    if missing := [tool for tool in options.tools if tool not in given]:
        parser.error(f"--tools {' '.join(missing)}: give the program with --{missing[0]}.")
    if len(options.tools) > 1 and not options.tokenizer:
        parser.error("The other tools want a tokenizer. Give its folder with --tokenizer.")
    rows = []
    print(f"cores: {os.cpu_count()}, load of the machine before: {os.getloadavg()[0]:.1f}")
    for streams in options.streams:
        most, each = (200, 4) if options.quick else (1000, 20)
        print(HEAD)
        rows += level(streams, options.requests or max(streams, min(most, each * streams)), options)
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
