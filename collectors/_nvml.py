"""The NVIDIA driver through the module `pynvml`, where both are present: one way to open it, to ask it and to find devices.

Everything here reads; nothing is ever set.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

_LOST = ("NVML_ERROR_GPU_IS_LOST", "NVML_ERROR_RESET_REQUIRED", "NVML_ERROR_GPU_NOT_FOUND")


class DeviceLostError(Exception):
    """The driver says that the device is gone."""


@contextlib.contextmanager
def opened() -> Iterator[Any | None]:
    """`pynvml`, initialised; None where the module, the driver or a device is missing."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no library, no driver: a machine without an NVIDIA GPU
        yield None
        return
    try:
        yield pynvml
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def ask(nvml: Any, function: str, *arguments: Any) -> Any | None:
    """What the driver answers; None where this board, driver or binding has no answer. Raises DeviceLostError."""
    try:
        return getattr(nvml, function)(*arguments)
    except Exception as error:  # NVMLError, and what a binding raises that is older or newer than its driver
        if getattr(error, "value", None) in {getattr(nvml, name, -1) for name in _LOST}:
            raise DeviceLostError(str(error)) from None
        return None


def handles(nvml: Any) -> list[Any]:
    """Handles of the devices CUDA shows this process, in its order: index 0 is `cuda:0`. One that is lost is not among them.

    CUDA_VISIBLE_DEVICES is followed (indices, UUIDs or their beginnings; CUDA ends at the first that it does not know).
    CUDA numbers unlike boards by speed unless CUDA_DEVICE_ORDER is PCI_BUS_ID, which is the driver's order and taken here.
    """
    count = _quietly(nvml, "nvmlDeviceGetCount") or 0
    known = [_quietly(nvml, "nvmlDeviceGetHandleByIndex", index) for index in range(count)]
    asked = os.environ.get("CUDA_VISIBLE_DEVICES")
    if asked is None:
        return [handle for handle in known if handle is not None]
    found = []
    for name in asked.split(","):
        handle = _named(nvml, known, name.strip())
        if handle is None:
            break
        found.append(handle)
    return found


def process_bytes(nvml: Any, handle: Any) -> float | None:
    """Device memory of this process; None where the driver hides it (in a container it may see other process ids)."""
    for process in ask(nvml, "nvmlDeviceGetComputeRunningProcesses", handle) or ():
        if process.pid == os.getpid() and process.usedGpuMemory is not None:
            return float(process.usedGpuMemory)
    return None


def _named(nvml: Any, known: list[Any | None], name: str) -> Any | None:
    if name.isdigit():
        return known[int(name)] if int(name) < len(known) else None
    if not name.startswith(("GPU-", "MIG-")):
        return None
    for handle in known:
        if handle is not None and str(_quietly(nvml, "nvmlDeviceGetUUID", handle)).startswith(name):
            return handle
    return _quietly(nvml, "nvmlDeviceGetHandleByUUID", name)


def _quietly(nvml: Any, function: str, *arguments: Any) -> Any | None:
    with contextlib.suppress(DeviceLostError):
        return ask(nvml, function, *arguments)
    return None
