"""One closed loop of the endpoint collector as a program: `python -m benchmarks.endpoint.ours URL STREAMS REQUESTS FILE`.

Writes each request as it was seen, and the figures of the whole run as columns of `runs`.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

from collectors.endpoint import _clients, _rows
from collectors.endpoint._load import Level
from collectors.endpoint._prompts import Prompts
from collectors.endpoint._providers import openai

url, streams, count, file = sys.argv[1:]
level = Level(int(streams), int(count), 0, 64)
target = openai.target(url, "m", timeout_s=120.0)
outcome = _clients.run(target, level, Prompts(None, 100, True, "1"), processes=_clients.num_processes(level))
seen = [
    {
        "key": int(reply.text.split()[0]),
        "first_s": outcome.zero_s + reply.sent_at_s + reply.ttft_s,
        "ttft_s": reply.ttft_s,
        "tpot_s": reply.tpot_s,
        "e2el_s": reply.e2el_s,
    }
    for reply in outcome.measured
    if reply.status == "ok" and reply.ttft_s is not None
]
columns = _rows.columns(outcome, level)
definitions = columns.pop("metric_definitions")
columns["output_tokens"] = statistics.mean(reply.output_tokens for reply in outcome.measured if reply.output_tokens)
whole_run = {
    row["metric"].removeprefix("rooflake:whole_run_"): row["value"] for row in _rows.samples("", outcome.measured)
}
definitions |= {name: "tokens_over_duration" for name in definitions if name in _rows.RATES}
Path(file).write_text(json.dumps({"seen": seen, "columns": {**columns, **whole_run}, "definitions": definitions}))
