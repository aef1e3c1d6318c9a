"""One prompt to an endpoint, asked by a child process in the background: the collector sends it and lands the run, then the run is loaded.

The dashboard imports no collector: it starts the commands of its own environment. Keys are never typed here: the collector reads them from
the environment variable that is named. There is a desk only where the dashboard listens on loopback, and it serves loopback hosts alone.
"""

from __future__ import annotations

import atexit
import ipaddress
import os
import re
import signal
import subprocess
import sys
import threading
import uuid
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from warehouse import parquet
from warehouse.store import Home, StoreError

PROVIDERS = ("openai", "tgi", "vertex", "sagemaker", "azure", "bedrock")
MOST_RUNNING, MOST_KEPT = 4, 20
"""Prompts on their way at once, and prompts remembered."""
MOST_LETTERS = 20_000
"""Longest prompt: it is an argument of a command."""
MOST_OF_A_NAME = 2000
"""Letters of a URL or a model's name."""
UNSENDABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
"""What no argument of a command, or no text, can hold: control characters but tab and newline, and halves of characters."""
MOST_TOKENS = 8192
FAILURE_LANDED = 1
"""Exit status of a collector that landed nothing but failures: those are rows too."""
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Question:
    """What to ask whom. `key_variable` names the environment variable that holds the key; empty for the provider's own."""

    url: str
    model: str
    provider: str
    prompt: str
    output_tokens: int
    key_variable: str = ""

    def check(self) -> None:
        """Raises StoreError with a sentence for what cannot be asked."""
        if self.provider not in PROVIDERS:
            raise StoreError(f"'{self.provider}' is not a provider. Known: {', '.join(PROVIDERS)}.")
        for name, value in (("URL", self.url), ("model's name", self.model), ("prompt", self.prompt)):
            if UNSENDABLE.search(value) or (name != "prompt" and re.search(r"[\t\n]", value)):
                raise StoreError(
                    f"The {name} holds a control character or half of one that cannot be sent. Take it out."
                )
            if name != "prompt" and len(value) > MOST_OF_A_NAME:
                raise StoreError(f"The {name} has {len(value)} letters; at most {MOST_OF_A_NAME} can be asked here.")
        if self.url and not re.match(r"https?://[^\s/]", self.url):
            raise StoreError(
                f"'{self.url}' is not an address: it begins with http:// or https://, as in http://127.0.0.1:8000/v1."
            )
        if "@" in self.url.partition("//")[2].partition("/")[0]:
            raise StoreError(
                "The address holds a name or a password. Leave it out: the key is read from an environment variable."
            )
        if not self.model.strip() or not self.prompt.strip():
            raise StoreError("Say the model's name, as the server knows it, and a prompt.")
        if len(self.prompt) > MOST_LETTERS:
            raise StoreError(
                f"The prompt has {len(self.prompt)} letters; at most {MOST_LETTERS} can be asked here. `rooflake collect endpoint` takes longer ones."
            )
        if not 1 <= self.output_tokens <= MOST_TOKENS:
            raise StoreError(f"{self.output_tokens} tokens cannot be asked for: 1 to {MOST_TOKENS}.")
        if self.key_variable and not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,63}", self.key_variable):
            raise StoreError(
                "The key is not typed here. Give the name of the environment variable that holds it, in capitals like OPENAI_API_KEY."
            )

    def command(self, landing: Path) -> list[str]:
        """The collector's command; every value is bound to its option, so that none can be read as another."""
        told = {"landing": landing, "url": self.url, "model": self.model, "provider": self.provider, "load": "single", "prompt": self.prompt,
                "output-tokens": self.output_tokens, "api-key-env": self.key_variable}  # fmt: skip
        return [
            sys.executable,
            "-m",
            "collectors",
            "endpoint",
            *(f"--{name}={value}" for name, value in told.items() if value != ""),
        ]


@dataclass
class Job:
    """One prompt on its way. `state` is asking, loading, done, failed or cancelled; `answer` the landed request, which may tell of a
    failure; `run_id` once it is loaded."""

    question: Question
    state: str = "asking"
    lines: list[str] = field(default_factory=list)
    answer: dict[str, Any] | None = None
    run_id: str | None = None
    process: subprocess.Popen[str] | None = None

    @property
    def is_over(self) -> bool:
        return self.state in ("done", "failed", "cancelled")


class Desk:
    """Takes questions for one home folder. Safe to share between the server's threads."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._lock = threading.Lock()
        atexit.register(self.close)

    def ask(self, question: Question) -> str:
        """Start to ask; the id of the job. Raises StoreError for what cannot be asked, or where too many are on their way."""
        question.check()
        with self._lock:
            if sum(not job.is_over for job in self._jobs.values()) >= MOST_RUNNING:
                raise StoreError(f"{MOST_RUNNING} prompts are on their way already. Wait for one, or cancel one.")
            job_id, job = uuid.uuid4().hex[:16], Job(question)
            self._jobs[job_id] = job
            while len(self._jobs) > MOST_KEPT:
                self._jobs.popitem(last=False)
        threading.Thread(target=self._work, args=(job,), daemon=True).start()
        return job_id

    def job(self, job_id: str) -> Job | None:
        with self._lock:
            return self._jobs.get(job_id)

    def cancel(self, job_id: str) -> None:
        """Stop a job: its process and all that it started. What has landed already stays, to be loaded with the next load."""
        with self._lock:
            job = self._jobs.get(job_id)
            if job is None or job.is_over:
                return
            job.state, process = "cancelled", job.process
        if process is not None:
            _stop(process)

    def close(self) -> None:
        for job_id in list(self._jobs):
            self.cancel(job_id)

    def _work(self, job: Job) -> None:
        try:
            self._ask(job)
        except Exception as error:  # whatever it is, the job must end
            job.lines.append(f"{type(error).__name__}: {error}")
            self._end(job, "failed")

    def _ask(self, job: Job) -> None:
        landed = self._run(job, job.question.command(self._home.landing.resolve()), fine=(0, FAILURE_LANDED))
        paths = [Path(line) for line in landed or ()]
        runs = [path for path in paths if path.parent.name == "runs"]
        requests = [path for path in paths if path.parent.name == "requests"]
        if job.is_over:
            return
        if landed is None or not runs or not requests:
            self._end(job, "failed")
            return
        answer = parquet.read("requests", requests[0]).to_pylist()[0]
        job.answer, job.state = answer, "loading"
        loaded = self._run(job, [sys.executable, "-m", "etl.cli", "load", f"--home={self._home.path.resolve()}"])
        if loaded is not None:
            job.run_id = runs[0].stem
        self._end(job, "done" if loaded is not None and answer["status"] == "ok" else "failed")

    def _run(self, job: Job, command: list[str], fine: tuple[int, ...] = (0,)) -> list[str] | None:
        """Run a command, its narration into `job.lines`; the lines it printed, None where it was cancelled or its exit status is none of
        `fine`."""
        with self._lock:
            if job.is_over:
                return None
            job.process = process = subprocess.Popen(
                command, cwd=ROOT, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
                errors="replace",
            )  # fmt: skip
        printed: list[str] = []
        reader = threading.Thread(
            target=lambda: printed.extend(line.rstrip("\n") for line in process.stdout or ()), daemon=True
        )
        reader.start()
        for line in process.stderr or ():
            job.lines.append(line.rstrip("\n"))
        reader.join()
        return printed if process.wait() in fine else None

    def _end(self, job: Job, state: str) -> None:
        with self._lock:
            if not job.is_over:
                job.state = state


def is_loopback(host: str) -> bool:
    """Whether a host name or address (with or without a port) is this machine's loopback."""
    name = (
        host.rpartition("]")[0].lstrip("[")
        if host.startswith("[")
        else host.partition(":")[0]
        if host.count(":") <= 1
        else host
    )
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _stop(process: subprocess.Popen[str]) -> None:
    """End a process and its children: politely, after three seconds by force."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, kind)
            process.wait(3)
            return
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
