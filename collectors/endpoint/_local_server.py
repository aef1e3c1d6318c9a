"""An LLM of the catalogue served on this machine: `transformers serve` on loopback, random weights, a tokenizer of plain words.

Speed does not depend on weight values. Of the head only the rows of whole words are not zero, so that every token of an answer is text
and no answer ends before its limit. On a CPU requests are answered one at a time and by one thread: a second thread that has to wait
for a core that the client uses makes token times jump. On CUDA requests are batched continuously, where transformers can.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import inspect
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import collectors
from collectors import Report, _machine, _workers, silent
from collectors.endpoint._prompts import WORDS
from warehouse import schema
from warehouse.catalog.llm import Llm, parameter_count

NEEDED = ("torch", "transformers", "tokenizers", "fastapi", "uvicorn", "pydantic", "openai")
DTYPES = {"cpu": "fp32", "cuda": "bf16"}
"""What weights, activations and KV cache are in unless told otherwise, by device."""

TORCH_NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
ATTENTION_NAMES = {"eager": "eager", "sdpa": "sdpa", "flash": "flash_attention_2"}

START_S = 180.0
READ_BYTES_PER_S = 2e8
"""Pace at which weights are read at the least; a start may take START_S and the weights at this pace."""
STOP_S = 10.0
ROOM = 1.2
"""Free bytes needed for each byte of weights, in memory and on disk."""

VOCABULARY = 512
CHAT_TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant: "


class ServerError(ConnectionError):
    """An LLM that cannot be built, or a server that does not answer: with the end of its log."""


@dataclass(frozen=True)
class LocalServer:
    """What will be served, and where. `attention` is the implementation asked for, in the warehouse's words."""

    llm: Llm
    device: str
    dtype: str
    attention: str
    is_batching: bool
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def variables(self) -> dict[str, str]:
        """What the server's environment has beside this process's."""
        return {"HF_HUB_OFFLINE": "1"} | ({"OMP_NUM_THREADS": "1"} if self.device == "cpu" else {})

    @property
    def described(self) -> dict[str, Any]:
        """Options of the collector that are known of a server of one's own."""
        return {
            "llm_id": self.llm.llm_id,
            "hardware_id": _machine.hardware_id(self.device),
            "weight_dtype": self.dtype,
            "activation_dtype": self.dtype,
            "kv_dtype": self.dtype,
            "attention": "paged" if self.is_batching else self.attention,
            "execution": "eager",
            "framework": "transformers",
            "framework_version": importlib.metadata.version("transformers"),
        }

    def environment(self) -> dict[str, Any]:
        """The `environments` row of the server's process."""
        ours = _machine.environment(_machine.hardware_id(self.device))
        content = {name: value for name, value in ours.items() if name != "environment_id"}
        content["variables"] = _machine.speed_variables({**os.environ, **self.variables})
        if self.device == "cpu":
            content["num_threads"] = 1
        return {"environment_id": schema.digest(content), **content}


def missing() -> str | None:
    """Why no server can be started here, as a sentence; None where one can."""
    absent = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if not absent:
        return None
    return f"Serving an LLM here needs {', '.join(absent)}: pip install torch 'transformers[serving]'."


def local_server(llm: Llm, device: str = "auto", dtype: str | None = None, attention: str | None = None) -> LocalServer:
    """A server to be, on a free port. Raises ValueError for what cannot be served, LookupError where packages are missing."""
    if (sentence := missing()) is not None:
        raise LookupError(sentence)
    device = _machine.resolve_device(device)
    dtype = DTYPES[device] if dtype is None else dtype
    if llm.architecture != "decoder":
        raise ValueError(
            f"'{llm.llm_id}' is an {llm.architecture.replace('_', '-')}; only decoders can be served here."
        )
    if dtype not in TORCH_NAMES:
        raise ValueError(
            f"'{dtype}' cannot be served here. Known: {', '.join(TORCH_NAMES)}. Set it with --weight-dtype."
        )
    attention = "sdpa" if attention is None else attention
    if attention not in ATTENTION_NAMES:
        raise ValueError(f"'{attention}' cannot be asked of transformers. Known: {', '.join(ATTENTION_NAMES)}.")
    return LocalServer(llm, device, dtype, attention, device == "cuda" and _can_batch(), _free_port())


def lack_of_room(server: LocalServer) -> str | None:
    """Why the weights do not fit into main memory, the device's or the temporary folder now, as a sentence; None where they do."""
    needed = ROOM * parameter_count(server.llm) * schema.DTYPE_BYTES[server.dtype]
    rooms = {
        "main memory": _machine.available_memory_bytes(),
        "the temporary folder": float(shutil.disk_usage(tempfile.gettempdir()).free),
    }
    if server.device == "cuda":
        import torch

        rooms["device memory"] = float(torch.cuda.get_device_properties(0).total_memory)
    for place, free in rooms.items():
        if free is not None and free < needed:
            return (
                f"Serving {server.llm.llm_id} in {server.dtype} takes {needed / 1e9:.1f} GB of {place}, "
                f"and {free / 1e9:.1f} GB are free."
            )
    return None


@contextlib.contextmanager
def running(server: LocalServer, report: Report = silent) -> Iterator[None]:
    """Build the LLM, start the server, wait until it answers, and stop it in the end, whatever ends it.

    Raises ServerError where the LLM cannot be built, or the server does not answer in time or ends before.
    """
    with tempfile.TemporaryDirectory(prefix="rooflake-served-") as place:
        folder = Path(place)
        began = time.monotonic()
        build(server, folder / server.llm.llm_id)
        built = time.monotonic()
        process = _start(server, folder)
        try:
            _wait(server, process, folder / "log.txt")
            report(
                f"{server.llm.llm_id} in {server.dtype} on {server.device}: built in {built - began:.0f} s, "
                f"answers after {time.monotonic() - built:.0f} s more"
            )
            yield
        finally:
            _stop(process)


def build(server: LocalServer, folder: Path) -> None:
    """Write the LLM, its tokenizer and a chat template to a folder, from a process of its own: none of its memory stays in this one."""
    try:
        _workers.run(_write, (server.llm, server.dtype, server.attention, folder))
    except _workers.WorkerError as error:
        raise ServerError(f"{server.llm.llm_id} could not be built in {server.dtype}: {error}.") from error


def serve() -> None:
    """Be the server: the entry of its process. It ends with its parent, whose end closes its standard input, and leaves no weights."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from transformers.cli.transformers import app

    sys.argv[0] = "transformers"
    app()


def _end_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)
    shutil.rmtree(Path.cwd(), ignore_errors=True)
    os._exit(1)


def _write(worker: _workers.Worker, llm: Llm, dtype: str, attention: str, folder: Path) -> None:
    worker.begin("build")
    import torch
    from transformers import GenerationConfig
    from transformers.utils import logging

    from collectors import _transformers

    logging.disable_progress_bar()
    tokenizer = _tokenizer()
    model = _transformers.build(_transformers.Target(llm), dtype, attention, "cpu")
    words = tokenizer.convert_tokens_to_ids([f"\u0120{word}" for word in WORDS])
    with torch.no_grad():
        head = model.get_output_embeddings().weight
        kept = head[words].clone()
        head.zero_()
        head[words] = kept
    model.generation_config = GenerationConfig(bos_token_id=0, eos_token_id=1, pad_token_id=1)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


def _tokenizer() -> Any:
    """Byte-level BPE in which each of the words of our prompts is one token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=["<s>", "</s>"], show_progress=False)
    bpe.train_from_iterator([" " + " ".join(WORDS)] * 20, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>")  # noqa: S106
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _start(server: LocalServer, folder: Path) -> subprocess.Popen[bytes]:
    """Started beside the LLM's folder, whose name is then the name the LLM is served under: no path gets into requests or rows."""
    root = str(Path(collectors.__file__).resolve().parents[1])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    with (folder / "log.txt").open("wb") as log:
        return subprocess.Popen(
            _command(server), cwd=folder, env={**os.environ, **server.variables, "PYTHONPATH": path},
            stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip


def _command(server: LocalServer) -> Sequence[str]:
    entry = f"from {__name__} import serve; serve()"
    return [
        sys.executable, "-P", "-c", entry, "serve", server.llm.llm_id, "--device", server.device,
        "--dtype", TORCH_NAMES[server.dtype], "--attn-implementation", ATTENTION_NAMES[server.attention],
        "--host", "127.0.0.1", "--port", str(server.port), *(["--continuous-batching"] if server.is_batching else []),
    ]  # fmt: skip


def _wait(server: LocalServer, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until the server is healthy and has answered once: the first answer of a server that batches takes up to a minute."""
    weights_bytes = parameter_count(server.llm) * schema.DTYPE_BYTES[server.dtype]
    limit_s = START_S + weights_bytes / READ_BYTES_PER_S
    deadline = time.monotonic() + limit_s
    first = {"model": server.llm.llm_id, "messages": [{"role": "user", "content": WORDS[0]}], "max_tokens": 2}
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    is_healthy = False
    while (left := deadline - time.monotonic()) > 0 and process.poll() is None:
        try:
            if not is_healthy:
                direct.open(f"{server.url}/health", timeout=min(2.0, left)).close()
                is_healthy = True
            request = urllib.request.Request(  # noqa: S310 (loopback)
                f"{server.url}/v1/chat/completions", json.dumps(first).encode(), {"Content-Type": "application/json"}
            )
            with direct.open(request, timeout=left) as answer:
                answer.read()
            return
        except urllib.error.HTTPError as error:
            refusal = f"answers HTTP {error.code}: {error.read(500).decode(errors='replace')}"
            raise ServerError(_said(server, refusal, log)) from None
        except OSError:
            time.sleep(0.2)
    code = process.poll()
    end = f"did not answer within {limit_s:.0f} s" if code is None else f"ended with exit code {code}"
    raise ServerError(_said(server, end, log))


def _said(server: LocalServer, what: str, log: Path) -> str:
    """A sentence with the last lines of the log."""
    tail = " | ".join(log.read_text(errors="replace").strip().splitlines()[-5:])[-1000:]
    return f"transformers serve {server.llm.llm_id} {what}. The end of its log: {tail or 'nothing'}"


def _stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the server's process group, then SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
            break
    if process.stdin is not None:
        process.stdin.close()


def _can_batch() -> bool:
    from transformers.cli.serve import Serve

    return "continuous_batching" in inspect.signature(Serve).parameters


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
