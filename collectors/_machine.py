"""The machine at hand: its software stack (`environments` row), its device type (`hardware` row), a lock per device.

Standard library, and psutil, pynvml and torch where present. Nothing is read or touched at import.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import importlib.metadata
import importlib.util
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from collectors import Report, _nvml, silent
from warehouse import catalog, schema

ROOT = Path(__file__).parent.parent
PROC, SYS, RUN = Path("/proc"), Path("/sys"), Path("/run")
ISOLATION_WINDOW_S = 0.25
PATIENCE_S = 8.0
"""Longest time to go on measuring the bandwidth while other processes use it, with `PAUSE_S` between two tries."""
PAUSE_S = 0.5

VARIABLE_PREFIXES = ("NCCL_", "TORCH_", "CUDA_", "OMP_", "MKL_")
_PRIVATE_NAME = re.compile(r"KEY|TOKEN|SECRET|PASS|CRED|AUTH|USER|HOST|ADDR|COMM_ID|UUID")
_PLAIN_VALUE = re.compile(r"[A-Za-z0-9_.,:;=+ -]{0,64}")
_LONG_RUN = re.compile(r"[A-Za-z0-9+=]{12,}")


def environment(hardware_id: str | None = None) -> dict[str, Any]:
    """The `environments` row of this machine and software stack; `environment_id` is the digest of all the rest.

    Versions come from package metadata, so that nothing heavy is imported. Holds no host name, user name, path or secret.
    """
    packages = _packages()
    content: dict[str, Any] = {
        "hardware_id": hardware_id,
        "os": _os_name(),
        "kernel": f"{platform.system()} {platform.release()}",
        "cpu_name": cpu_name(),
        "cpu_count": usable_cores(),
        "memory_bytes": main_memory_bytes(),
        **_gpu(),
        "cuda_version": _torch_cuda_version(),
        "cudnn_version": _bundled(packages, "nvidia-cudnn-"),
        "nccl_version": _bundled(packages, "nvidia-nccl-"),
        "num_numa_nodes": len(list(SYS.glob("devices/system/node/node[0-9]*"))) or None,
        "cpu_governor": _read(SYS / "devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "cpu_clock_max_hz": _cpu_clock_max_hz(),
        "container_digest": _container_digest(),
        "git_commit": _git_commit(),
        "python_version": platform.python_version(),
        "torch_version": package_version("torch"),
        "transformers_version": package_version("transformers"),
        "num_threads": num_threads(),
        "packages": packages,
        "variables": speed_variables(os.environ),
    }
    return {"environment_id": schema.digest(content), **content}


def speed_variables(environ: Any) -> dict[str, str]:
    """Variables that change speed, by prefix; none whose name or value could be private (a secret, a path, a host)."""
    return {
        name: value
        for name, value in sorted(environ.items())
        if name.startswith(VARIABLE_PREFIXES) and not _PRIVATE_NAME.search(name) and not _is_private(value)
    }


def hardware_id(device: str = "auto") -> str:
    """Id of the device type at hand, without measuring: the catalogue's, else one made of its name (and core count)."""
    if resolve_device(device) == "cuda":
        name = _cuda_name()
        with contextlib.suppress(catalog.UnknownEntryError):
            return catalog.find_hardware(name).hardware_id
        return f"gpu-{_slug(name)}"
    with contextlib.suppress(ImportError):  # its thread count is part of the id, and must not depend on who imported it
        import torch  # noqa: F401
    derived = f"cpu-{_slug(_cpu_label())}-{num_threads() or usable_cores()}c"
    with contextlib.suppress(catalog.UnknownEntryError):
        return catalog.find_hardware(derived).hardware_id
    return derived


def measured_id(hardware_id: str) -> str:
    """Id of the `hardware` row of kind `measured` that holds what microbenchmarks reached on a device type."""
    return f"{hardware_id}-measured"


def isolation(device: str) -> list[str]:
    """What disturbs a measurement on this device just now or makes it unlike others, in sentences for `status_detail`.

    Looks at the processors for a quarter of a second. Settings are read, never changed.
    """
    notes = list(_gpu_disturbances()) if device == "cuda" else []
    with Load() as load:
        time.sleep(ISOLATION_WINDOW_S)
    busy = load.other_ratio()
    if busy is not None and busy > schema.QUIET_LOAD_RATIO:
        notes.append(f"other processes keep {min(busy, 1.0):.0%} of the cores busy")
    return notes


@functools.cache
def hardware_row(device: str = "auto") -> dict[str, Any]:
    """The `hardware` row of the device type at hand: the catalogue's, else one with ceilings measured in about 3 seconds, up to 11 on a busy CPU.

    A measured ceiling is the best of many tries over several sizes, with the threads torch uses. Two measurements differ,
    and one key holds one content: keep the first row and hand it to later runs. Raises ImportError where torch is absent
    and measuring is needed.
    """
    key = hardware_id(device)
    with contextlib.suppress(catalog.UnknownEntryError):
        return dict(catalog.find_hardware(key).row)
    if importlib.util.find_spec("torch") is None:
        raise ImportError(f"'{key}' is not in the hardware catalogue and measuring it needs torch: pip install torch.")
    return _measured_row(key, resolve_device(device))


def resolve_device(device: str) -> str:
    """'auto' -> 'cuda' where torch sees a CUDA device, else 'cpu'. Raises ValueError for a device that is not there."""
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"'{device}' is not a device. Known: auto, cpu, cuda.")
    if device == "cpu" or importlib.util.find_spec("torch") is None:
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if device == "cuda":
        raise ValueError(
            "'cuda' was asked for and torch sees no CUDA device. Use --device cpu, or a CUDA build of torch."
        )
    return "cpu"


def usable_cores() -> int:
    """Logical processors this process may use: its affinity, less a container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    quota, _, period = (_read("/sys/fs/cgroup/cpu.max") or "max").partition(" ")
    if quota.isdigit() and period.isdigit():
        cores = min(cores, max(1, -(-int(quota) // int(period))))
    return cores


def num_threads() -> int | None:
    """Intra-op threads of torch where it is loaded, else None."""
    torch = sys.modules.get("torch")
    return int(torch.get_num_threads()) if torch is not None else None


def main_memory_bytes() -> float | None:
    """Main memory, or a container's limit where that is smaller."""
    try:
        total = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (ValueError, OSError, AttributeError):
        return None
    limit = _read("/sys/fs/cgroup/memory.max")
    return min(total, float(limit)) if limit is not None and limit.isdigit() else total


def available_memory_bytes() -> float | None:
    """Main memory that can be had now without swapping, inside a container's limit; None where the system does not tell."""
    free = _system_available_bytes()
    limit, used = _read("/sys/fs/cgroup/memory.max"), _read("/sys/fs/cgroup/memory.current")
    if free is not None and limit is not None and limit.isdigit() and used is not None and used.isdigit():
        free = min(free, float(limit) - float(used))
    return free


def cpu_name() -> str:
    """The processor as it names itself."""
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


def package_version(name: str) -> str | None:
    """Version of an installed package, without importing it."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


@contextlib.contextmanager
def device_lock(device: str, report: Report = silent) -> Iterator[None]:
    """Hold this machine's lock on a device ('cpu' or 'cuda'): two measurements never share one. Says so while waiting."""
    import fcntl

    path = Path(tempfile.gettempdir()) / f"rooflake-{device}.lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:  # another user's file: a shared descriptor locks as well
        descriptor = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(f"Another measurement holds {device} ({path.name}); waiting for it to end.")
            began = time.monotonic()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            report(f"Got {device} after {time.monotonic() - began:.0f} s.")
        yield
    finally:
        os.close(descriptor)


class Load:
    """What used the processors while entered: processor seconds of all other processes of the system (None where it does not
    tell) and of this one, in `elapsed_s` seconds of wall clock."""

    elapsed_s = own_s = 0.0
    others_s: float | None = None

    def __enter__(self) -> Load:
        self._before = time.perf_counter(), _others_cpu_s(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        began, others, own = self._before
        after = _others_cpu_s()
        self.elapsed_s, self.own_s = time.perf_counter() - began, time.process_time() - own
        self.others_s = None if others is None or after is None else max(0.0, after - others)

    def other_ratio(self, partners: Sequence[Load] = ()) -> float | None:
        """Column `other_load_ratio`: share of the usable cores that processes other than this one and its partners (the other
        ranks, by their own loads) kept busy."""
        if self.others_s is None:
            return None
        others = self.others_s - sum(one.own_s for one in partners)
        return max(0.0, others) / self.elapsed_s / usable_cores()


def load_note(other_load_ratio: float | None) -> str | None:
    """A sentence for `status_detail` where other processes disturbed a run; None where the machine was quiet, or unknown."""
    if other_load_ratio is None or other_load_ratio <= schema.QUIET_LOAD_RATIO:
        return None
    return f"other processes kept {other_load_ratio:.0%} of the cores busy meanwhile"


def _others_cpu_s() -> float | None:
    """Processor seconds that all other processes of the system have used so far; None where the system does not tell."""
    first = (_read(PROC / "stat") or "").partition("\n")[0].split()
    if len(first) > 8:  # user nice system idle iowait irq softirq steal: guest time is part of user time
        ticks = [float(value) for value in first[1:9]]
        return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK") - time.process_time()
    try:
        import psutil
    except ImportError:
        return None
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - time.process_time())


def _system_available_bytes() -> float | None:
    found = re.search(r"^MemAvailable:\s+(\d+) kB", _read(PROC / "meminfo") or "", re.MULTILINE)
    if found:
        return float(found[1]) * 1024
    try:
        import psutil
    except ImportError:
        return None
    return float(psutil.virtual_memory().available)


def _measured_row(key: str, device: str) -> dict[str, Any]:
    import torch

    is_cuda = device == "cuda"
    properties = torch.cuda.get_device_properties(0) if is_cuda else None
    widths = (2048, 4096, 8192) if is_cuda else (256, 384, 512, 1024)
    peaks = {
        f"peak_{dtype}_flops_per_s": _roof(
            functools.partial(_best_gemm, getattr(torch, name), device, widths),
            device,
            per_core=torch.get_num_threads(),
        )
        for dtype, name in (("fp32", "float32"), ("bf16", "bfloat16"))
    }
    threads = "" if is_cuda else f", {torch.get_num_threads()} threads"
    return {
        "hardware_id": key,
        "name": _cuda_name() if is_cuda else f"{_cpu_label()}, {torch.get_num_threads()} cores",
        "vendor": "NVIDIA" if is_cuda else _cpuinfo().get("vendor_id"),
        "kind": "gpu" if is_cuda else "cpu",
        "architecture": None if is_cuda else platform.machine(),
        "memory_bytes": main_memory_bytes() if properties is None else float(properties.total_memory),
        "memory_bandwidth_bytes_per_s": _roof(functools.partial(_bandwidth, device), device, patience_s=PATIENCE_S),
        **peaks,
        "vector_fp32_flops_per_s": None if is_cuda else peaks["peak_fp32_flops_per_s"],
        "l2_bytes": None if is_cuda else _last_level_cache_bytes(),
        "num_cores": torch.get_num_threads() if properties is None else properties.multi_processor_count,
        "source": "measured by rooflake on the device itself: best of many GEMMs and memory passes, "
        f"torch {torch.__version__}{threads}",
        "source_date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "note": "Peaks: square GEMMs; on a CPU that other processes kept busy meanwhile, cores times the best of one core. "
        "Bandwidth: copy, triad and sum over arrays far larger than the last-level cache, bytes as programmed, without "
        "write-allocate traffic.",
    }


def _roof(measure: Callable[[], float], device: str, per_core: float = 1.0, patience_s: float = 0.0) -> float:
    """A ceiling: the best with all threads or, where other processes kept a CPU busy meanwhile, of one thread if better.

    All threads seldom run at once for long enough on a busy system, which leaves one core alone for milliseconds, and a roof
    must not lie below what a later run reaches. `per_core` is how many times one core's best the whole reaches. What cores
    share, as the bandwidth, one core alone does not show: for `patience_s` it is tried again until nobody else is busy.
    """
    if device == "cuda":
        return measure()
    deadline = time.monotonic() + patience_s
    with Load() as load:
        best = measure()
    while load.others_s is not None and load.others_s >= 0.05 * load.elapsed_s:
        best = max(best, per_core * _with_one_thread(measure))
        if time.monotonic() >= deadline:
            break
        time.sleep(PAUSE_S)
        with Load() as load:
            best = max(best, measure())
    return best


def _with_one_thread(measure: Callable[[], float]) -> float:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return measure()
    finally:
        torch.set_num_threads(threads)


def _best_gemm(dtype: Any, device: str, widths: tuple[int, ...]) -> float:
    """Best of 2 n^3 over the shortest time."""
    import torch

    best = 0.0
    for width in widths:
        a, b = (torch.randn(width, width, device=device).to(dtype) for _ in range(2))
        out = torch.empty(width, width, device=device, dtype=dtype)
        best = max(best, 2.0 * width**3 / _shortest([functools.partial(torch.mm, a, b, out=out)], device))
    return best


def _bandwidth(device: str) -> float:
    """Best B/s of copy (2 arrays), triad (3) and sum (1), part after part of arrays far larger than the last-level cache.

    A part (128 MiB on a CPU) is evicted before its turn comes again, and short enough to run between other processes.
    """
    import torch

    length = 2**26 if device == "cpu" else 2**30
    x, y, z = (torch.ones(length, device=device).chunk(2) for _ in range(3))
    parts = range(len(x))
    passes: tuple[tuple[int, list[Callable[[], Any]]], ...] = (
        (2, [functools.partial(z[part].copy_, x[part]) for part in parts]),
        (3, [functools.partial(torch.add, x[part], y[part], alpha=2.0, out=z[part]) for part in parts]),
        (1, [x[part].sum for part in parts]),
    )
    return max(arrays * 4.0 * x[0].numel() / _shortest(calls, device) for arrays, calls in passes)


def _shortest(calls: list[Callable[[], Any]], device: str, budget_s: float = 0.2) -> float:
    """Shortest time of equal calls made in turn within a budget, synchronised on CUDA; at least 3 after one warm-up each."""
    import torch

    times: list[float] = []
    began = time.perf_counter()
    while len(times) < len(calls) + 3 or time.perf_counter() - began < budget_s:
        start = time.perf_counter()
        calls[len(times) % len(calls)]()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[len(calls) :])


def _gpu() -> dict[str, Any]:
    """What the driver says of the first GPU that CUDA shows this process; empty without one."""
    with _nvml.opened() as nvml, contextlib.suppress(_nvml.DeviceLostError):
        found = [] if nvml is None else _nvml.handles(nvml)
        if found:
            return _gpu_columns(nvml, found)
    return {}


def _gpu_columns(nvml: Any, found: list[Any]) -> dict[str, Any]:
    ask = functools.partial(_nvml.ask, nvml)
    handle = found[0]
    memory, name = ask("nvmlDeviceGetMemoryInfo", handle), ask("nvmlDeviceGetName", handle)
    ecc, mig = ask("nvmlDeviceGetEccMode", handle), ask("nvmlDeviceGetMigMode", handle)
    persistence = ask("nvmlDeviceGetPersistenceMode", handle)
    held, default = (
        ask(f"nvmlDeviceGet{which}ApplicationsClock", handle, nvml.NVML_CLOCK_SM) for which in ("", "Default")
    )
    links = [ask("nvmlDeviceGetNvLinkState", handle, link) for link in range(nvml.NVML_NVLINK_MAX_LINKS)]
    known_links = [state for state in links if state is not None]
    return {
        "gpu_name": _text(name),
        "gpu_count": len(found),
        "gpu_memory_bytes": None if memory is None else float(memory.total),
        "driver_version": _text(ask("nvmlSystemGetDriverVersion")),
        "power_limit_w": _scaled(ask("nvmlDeviceGetEnforcedPowerLimit", handle), 1e-3),
        "sm_clock_max_hz": _scaled(ask("nvmlDeviceGetMaxClockInfo", handle, nvml.NVML_CLOCK_SM), 1e6),
        "memory_clock_max_hz": _scaled(ask("nvmlDeviceGetMaxClockInfo", handle, nvml.NVML_CLOCK_MEM), 1e6),
        "sm_clock_limit_hz": None if held == default else _scaled(held, 1e6),
        "vbios_version": _text(ask("nvmlDeviceGetVbiosVersion", handle)),
        "is_ecc_enabled": None if ecc is None else bool(ecc[0]),
        "is_mig_enabled": None if mig is None else bool(mig[0]),
        "is_persistence_enabled": None if persistence is None else bool(persistence),
        "pcie_generation": ask("nvmlDeviceGetMaxPcieLinkGeneration", handle),
        "pcie_width": ask("nvmlDeviceGetMaxPcieLinkWidth", handle),
        "num_nvlinks": sum(known_links) if known_links else None,
    }


def _gpu_disturbances() -> Iterator[str]:
    with _nvml.opened() as nvml, contextlib.suppress(_nvml.DeviceLostError):
        found = [] if nvml is None else _nvml.handles(nvml)
        if not found:
            return
        others = _other_processes(nvml, found[0])
        if others:
            yield f"{others} other process{'es' if others > 1 else ''} on the GPU"
        row = _gpu_columns(nvml, found)
        if row["is_mig_enabled"]:
            yield "the GPU is cut into instances (MIG)"
        if row["is_ecc_enabled"] is False:
            yield "error-correcting device memory is off"
        if row["sm_clock_limit_hz"] is not None:
            yield f"applications are held to a compute clock of {row['sm_clock_limit_hz'] / 1e6:.0f} MHz"
        usual = _scaled(_nvml.ask(nvml, "nvmlDeviceGetPowerManagementDefaultLimit", found[0]), 1e-3)
        if usual is not None and row["power_limit_w"] is not None and row["power_limit_w"] < usual:
            yield f"power is limited to {row['power_limit_w']:.0f} W of {usual:.0f} W"


def _other_processes(nvml: Any, handle: Any) -> int:
    """Processes that compute on a GPU beside this one, which a container may know under another number."""
    processes = _nvml.ask(nvml, "nvmlDeviceGetComputeRunningProcesses", handle) or []
    torch = sys.modules.get("torch")
    is_among_them = any(one.pid == os.getpid() for one in processes) or (
        torch is not None and torch.cuda.is_initialized()
    )
    return max(0, len(processes) - is_among_them)


def _cuda_name() -> str:
    import torch

    return str(torch.cuda.get_device_name(0))


def _torch_cuda_version() -> str | None:
    """CUDA of the torch build, read from its version file: importing torch for it would cost seconds."""
    try:
        text = Path(str(importlib.metadata.distribution("torch").locate_file("torch/version.py"))).read_text()
    except (importlib.metadata.PackageNotFoundError, OSError):
        return None
    found = re.search(r"^cuda\b[^=]*=\s*'([^']+)'", text, re.MULTILINE)
    return found[1] if found else None


def _packages() -> list[str]:
    found = (entry.metadata for entry in importlib.metadata.distributions())  # each use of it reads its file
    return sorted({f"{one['Name'].lower()}=={one['Version']}" for one in found if one["Name"]})


def _bundled(packages: list[str], prefix: str) -> str | None:
    """Version of a library that comes as a package of its own, named after its CUDA."""
    found = [one.partition("==")[2] for one in packages if one.startswith(prefix)]
    return found[0] if found else None


def _cpu_clock_max_hz() -> float | None:
    text = _read(SYS / "devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq")
    return float(text) * 1e3 if text is not None and text.isdigit() else None


def _container_digest() -> str | None:
    """Digest of the image this runs in, from the only file in which a run-time (podman) says it."""
    found = re.search(r'^imageid="(?:sha256:)?([0-9a-f]{64})"', _read(RUN / ".containerenv") or "", re.MULTILINE)
    return f"sha256:{found[1]}" if found else None


@functools.cache
def _git_commit() -> str | None:
    """Commit of the checkout this code runs from, `+` where its code was changed; None outside a checkout."""
    if not (ROOT / ".git").exists():
        return None
    try:
        commit, changes = (
            subprocess.run(
                ["git", "--no-optional-locks", "-C", ROOT, *words],
                capture_output=True,
                text=True,
                check=True,
                timeout=20,
            ).stdout
            for words in (
                ["rev-parse", "HEAD"],
                ["status", "--porcelain", "--", "collectors", "models", "warehouse", "etl"],
            )
        )
    except (OSError, subprocess.SubprocessError):  # no git, or not its owner's
        return None
    return commit.strip() + ("+" if changes.strip() else "")


def _is_private(value: str) -> bool:
    runs = _LONG_RUN.findall(value)
    return not _PLAIN_VALUE.fullmatch(value) or any(len(run) >= 20 or not run.isalpha() for run in runs)


def _cpu_label() -> str:
    """The processor's name, with family and model where the name is generic ('AMD EPYC' in a virtual machine)."""
    name, info = cpu_name(), _cpuinfo()
    if re.search(r"\d", name) or "model" not in info:
        return name
    return f"{name} family {info.get('cpu family', '?')} model {info['model']}"


@functools.cache
def _cpuinfo() -> dict[str, str]:
    """First processor of /proc/cpuinfo; empty elsewhere than on Linux."""
    first = (_read("/proc/cpuinfo") or "").split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _last_level_cache_bytes() -> float | None:
    size = _read("/sys/devices/system/cpu/cpu0/cache/index3/size") or _read(
        "/sys/devices/system/cpu/cpu0/cache/index2/size"
    )
    return float(size[:-1]) * 1024 if size is not None and size.endswith("K") else None


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return f"{platform.system()} {platform.release()}"


def _slug(name: str) -> str:
    plain = re.sub(r"\((r|tm)\)|\bcpu\b|@.*|\bprocessor\b|\bfamily\b|\bmodel\b", " ", name.lower())
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


def _read(path: str | Path) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def _text(value: str | bytes | None) -> str | None:
    return value.decode() if isinstance(value, bytes) else value


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else float(value) * factor
