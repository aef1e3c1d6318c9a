"""A server on loopback whose /metrics speaks as serving engines and exporters do, with values that a test sets."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Callable, Iterator

VLLM = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{engine="0",model_name="tiny"}} {running}
vllm:num_requests_running{{engine="1",model_name="tiny"}} 1.0
vllm:num_requests_waiting{{engine="0",model_name="tiny"}} 2.0
vllm:num_requests_waiting_by_reason{{engine="0",model_name="tiny",reason="capacity"}} 99.0
vllm:kv_cache_usage_perc{{engine="0",model_name="tiny"}} 0.5
vllm:kv_cache_usage_perc{{engine="1",model_name="tiny"}} 0.25
# TYPE vllm:prompt_tokens counter
vllm:prompt_tokens_total{{engine="0",model_name="tiny"}} {prompt}
vllm:prompt_tokens_created{{engine="0",model_name="tiny"}} 1.7e+09
vllm:generation_tokens_total{{engine="0",model_name="tiny"}} 6.4e+01
vllm:prefix_cache_queries_total{{engine="0",model_name="tiny"}} {prompt}
vllm:prefix_cache_hits_total{{engine="0",model_name="tiny"}} {hits}
vllm:num_preemptions_total{{engine="0",model_name="tiny"}} 3.0
vllm:time_to_first_token_seconds_bucket{{engine="0",le="+Inf",model_name="tiny"}} 7.0
"""
"""Two engines; `str.format` fills what a test lets change."""

VLLM_OLD = """\
vllm:num_requests_running{model_name="tiny"} 4.0
vllm:gpu_cache_usage_perc{model_name="tiny"} 0.75
vllm:gpu_prefix_cache_hits_total{model_name="tiny"} 10.0
vllm:gpu_prefix_cache_queries_total{model_name="tiny"} 40.0
"""

SGLANG = """\
sglang:num_running_reqs{model_name="tiny",tp_rank="0",pp_rank="0"} 5.0
sglang:num_running_reqs{model_name="tiny",tp_rank="1",pp_rank="0"} 5.0
sglang:num_queue_reqs{model_name="tiny",tp_rank="0"} 6.0
sglang:token_usage{model_name="tiny",tp_rank="0"} 0.28
sglang:cache_hit_rate{model_name="tiny",tp_rank="0"} 0.4
sglang:gen_throughput{model_name="tiny",tp_rank="0"} 86.5
sglang:prompt_tokens_total{model_name="tiny"} 1000.0
sglang:generation_tokens_total{model_name="tiny"} 150.0
sglang:cached_tokens_total{cache_source="device",model_name="tiny"} 300.0
sglang:cached_tokens_total{cache_source="host",model_name="tiny"} 100.0
sglang:num_retracted_requests_total{model_name="tiny"} 1.0
"""

TGI = """\
# TYPE tgi_batch_current_size gauge
tgi_batch_current_size 8
# TYPE tgi_queue_size gauge
tgi_queue_size 2
tgi_request_input_length_bucket{le="+Inf"} 150
tgi_request_input_length_sum 18000
tgi_request_generated_tokens_sum 9000
"""

LLAMA_CPP = """\
llamacpp:requests_processing 1
llamacpp:requests_deferred 3
llamacpp:kv_cache_usage_ratio 0.125
llamacpp:prompt_tokens_total 700
llamacpp:tokens_predicted_total 300
"""

LLM_D = """\
inference_objective_running_requests{model_name="tiny"} 9
inference_pool_average_kv_cache_utilization{name="pool"} 0.85
inference_pool_average_queue_size{name="pool"} 2.5
inference_pool_per_pod_queue_size{model_server_pod="a",name="pool"} 2
inference_pool_per_pod_queue_size{model_server_pod="b",name="pool"} 3
inference_pool_ready_pods{name="pool"} 2
"""

DCGM = """\
DCGM_FI_DEV_GPU_UTIL{gpu="0",UUID="GPU-a",Hostname="node"} 97
DCGM_FI_DEV_FB_USED{gpu="0",UUID="GPU-a",Hostname="node"} 1024
DCGM_FI_DEV_POWER_USAGE{gpu="0",UUID="GPU-a",Hostname="node"} 412.5
DCGM_FI_DEV_SM_CLOCK{gpu="0",UUID="GPU-a",Hostname="node"} 1980
DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{gpu="0",UUID="GPU-a",Hostname="node"} 5000
DCGM_FI_DEV_GPU_UTIL{gpu="3",UUID="GPU-b",Hostname="node"} 12
DCGM_FI_DEV_GPU_TEMP{gpu="3",UUID="GPU-b",Hostname="node"} NaN
"""


@contextlib.contextmanager
def serving(page: str | Callable[[int], str], status: int = 200) -> Iterator[str]:
    """The address of a page: always the same text, or the n-th that is asked for (from 0)."""
    count = iter(range(10**9))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            text = page if isinstance(page, str) else page(next(count))
            self.send_response(status)
            self.send_header("content-type", "text/plain; version=0.0.4; charset=utf-8")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/metrics"
        finally:
            server.shutdown()
            thread.join(10)
