"""A double of the external module `pynvml`: GPUs whose counters are known functions of a clock, faults included.

Put one into sys.modules as 'pynvml'. Every name here is one of the real binding (tests/collectors/test_telemetry.py looks).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any


@dataclass
class Gpu:
    """One GPU. Its power is base_w + swing_w x sin(2 pi t / period_s), its energy the exact integral of that."""

    name: str = "NVIDIA H100 80GB HBM3"
    uuid: str = "GPU-11111111-2222-3333-4444-555555555555"
    base_w: float = 300.0
    swing_w: float = 0.0
    period_s: float = 0.3
    counter_update_s: float = 0.1
    counter_factor: float = 1.0
    """What the counter counts over what was used: anything but 1 is a faulty counter, 0 one that stands still."""
    power_readings_end_s: float = math.inf
    throttle_bits: int = 0x1
    processes: list[tuple[int, int | None]] = field(default_factory=list)
    ecc: int = 1
    mig: int = 0
    application_clock_mhz: int = 1980
    power_limit_w: float = 700.0
    num_nvlinks: int = 18
    unsupported: frozenset[str] = frozenset()
    is_lost: bool = False
    is_silent: bool = False

    def power_w(self, t: float) -> float:
        return self.base_w + self.swing_w * math.sin(2 * math.pi * t / self.period_s)

    def energy_j(self, t: float) -> float:
        swing = self.swing_w * self.period_s / (2 * math.pi) * (1 - math.cos(2 * math.pi * t / self.period_s))
        return self.base_w * t + swing


class NVMLError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(f"NVML error {value}")
        self.value = value


class FakeNvml:
    """The module: `fake.nvmlInit()` and so on. A GPU's handle is the Gpu itself."""

    NVMLError = NVMLError
    NVML_SUCCESS = 0
    NVML_ERROR_INVALID_ARGUMENT = 2
    NVML_ERROR_NOT_SUPPORTED = 3
    NVML_ERROR_NOT_FOUND = 6
    NVML_ERROR_GPU_IS_LOST = 15
    NVML_ERROR_RESET_REQUIRED = 16
    NVML_ERROR_GPU_NOT_FOUND = 28
    NVML_ERROR_UNKNOWN = 999
    NVML_CLOCK_SM = 1
    NVML_CLOCK_MEM = 2
    NVML_TEMPERATURE_GPU = 0
    NVML_NVLINK_MAX_LINKS = 18
    NVML_FI_DEV_POWER_INSTANT = 186

    def __init__(self, *gpus: Gpu, clock: Callable[[], float] = time.perf_counter) -> None:
        self.gpus = gpus
        self._clock, self._began = clock, clock()
        self._num_open = 0

    def now(self) -> float:
        return self._clock() - self._began

    # ---- the library

    def nvmlInit(self) -> None:
        self._num_open += 1

    def nvmlShutdown(self) -> None:
        if self._num_open == 0:
            raise NVMLError(1)
        self._num_open -= 1

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.95.05"

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:
        gpu = self.gpus[index]
        return self._answer(gpu, "nvmlDeviceGetHandleByIndex", gpu)

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Gpu:
        for gpu in self.gpus:
            if gpu.uuid == uuid:
                return gpu
        raise NVMLError(self.NVML_ERROR_NOT_FOUND)

    # ---- what a board is

    def nvmlDeviceGetName(self, gpu: Gpu) -> str:
        return gpu.name

    def nvmlDeviceGetUUID(self, gpu: Gpu) -> str:
        return gpu.uuid

    def nvmlDeviceGetVbiosVersion(self, gpu: Gpu) -> str:
        return "96.00.89.00.01"

    def nvmlDeviceGetEccMode(self, gpu: Gpu) -> list[int]:
        return [self._answer(gpu, "nvmlDeviceGetEccMode", gpu.ecc), 1]

    def nvmlDeviceGetMigMode(self, gpu: Gpu) -> list[int]:
        return [self._answer(gpu, "nvmlDeviceGetMigMode", gpu.mig), 0]

    def nvmlDeviceGetPersistenceMode(self, gpu: Gpu) -> int:
        return 1

    def nvmlDeviceGetMaxPcieLinkGeneration(self, gpu: Gpu) -> int:
        return 5

    def nvmlDeviceGetMaxPcieLinkWidth(self, gpu: Gpu) -> int:
        return 16

    def nvmlDeviceGetNvLinkState(self, gpu: Gpu, link: int) -> int:
        if gpu.num_nvlinks == 0:
            raise NVMLError(self.NVML_ERROR_NOT_SUPPORTED)
        return int(link < gpu.num_nvlinks)

    def nvmlDeviceGetMaxClockInfo(self, gpu: Gpu, clock: int) -> int:
        return 1980 if clock == self.NVML_CLOCK_SM else 2619

    def nvmlDeviceGetApplicationsClock(self, gpu: Gpu, clock: int) -> int:
        return gpu.application_clock_mhz if clock == self.NVML_CLOCK_SM else 2619

    def nvmlDeviceGetDefaultApplicationsClock(self, gpu: Gpu, clock: int) -> int:
        return 1980 if clock == self.NVML_CLOCK_SM else 2619

    def nvmlDeviceGetEnforcedPowerLimit(self, gpu: Gpu) -> int:
        return int(self._answer(gpu, "nvmlDeviceGetEnforcedPowerLimit", gpu.power_limit_w) * 1e3)

    def nvmlDeviceGetPowerManagementDefaultLimit(self, gpu: Gpu) -> int:
        return 700_000

    # ---- what moves

    def nvmlDeviceGetPowerUsage(self, gpu: Gpu) -> int:
        t = self.now()
        if t > gpu.power_readings_end_s:
            raise NVMLError(self.NVML_ERROR_NOT_SUPPORTED)
        return int(self._answer(gpu, "nvmlDeviceGetPowerUsage", gpu.power_w(t)) * 1e3)

    def nvmlDeviceGetFieldValues(self, gpu: Gpu, fields: list[int]) -> list[Any]:
        if fields != [self.NVML_FI_DEV_POWER_INSTANT]:
            raise NVMLError(self.NVML_ERROR_INVALID_ARGUMENT)
        if "nvmlDeviceGetFieldValues" in gpu.unsupported:  # the real call succeeds, and its value says that it did not
            return [SimpleNamespace(nvmlReturn=self.NVML_ERROR_NOT_SUPPORTED, value=SimpleNamespace(uiVal=0))]
        return [SimpleNamespace(nvmlReturn=0, value=SimpleNamespace(uiVal=self.nvmlDeviceGetPowerUsage(gpu)))]

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu: Gpu) -> int:
        t = self.now()
        if gpu.counter_update_s:
            t = math.floor(t / gpu.counter_update_s) * gpu.counter_update_s
        joules = 1234.5 + gpu.counter_factor * gpu.energy_j(t)
        return int(self._answer(gpu, "nvmlDeviceGetTotalEnergyConsumption", joules) * 1e3)

    def nvmlDeviceGetClockInfo(self, gpu: Gpu, clock: int) -> int:
        return int(self._answer(gpu, "nvmlDeviceGetClockInfo", 1755 if clock == self.NVML_CLOCK_SM else 2619))

    def nvmlDeviceGetTemperature(self, gpu: Gpu, sensor: int) -> int:
        return int(self._answer(gpu, "nvmlDeviceGetTemperature", 41))

    def nvmlDeviceGetUtilizationRates(self, gpu: Gpu) -> Any:
        return self._answer(gpu, "nvmlDeviceGetUtilizationRates", SimpleNamespace(gpu=97, memory=42))

    def nvmlDeviceGetMemoryInfo(self, gpu: Gpu) -> Any:
        return self._answer(gpu, "nvmlDeviceGetMemoryInfo", SimpleNamespace(total=80 * 2**30, used=7 * 2**30))

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: Gpu) -> list[Any]:
        found = [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in gpu.processes]
        return list(self._answer(gpu, "nvmlDeviceGetComputeRunningProcesses", found))

    def nvmlDeviceGetCurrentClocksEventReasons(self, gpu: Gpu) -> int:
        return int(self._answer(gpu, "nvmlDeviceGetCurrentClocksEventReasons", gpu.throttle_bits))

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, gpu: Gpu) -> int:
        return int(self._answer(gpu, "nvmlDeviceGetCurrentClocksThrottleReasons", gpu.throttle_bits))

    def _answer(self, gpu: Gpu, function: str, value: Any) -> Any:
        if gpu.is_lost:
            raise NVMLError(self.NVML_ERROR_GPU_IS_LOST)
        if gpu.is_silent:
            raise NVMLError(self.NVML_ERROR_UNKNOWN)
        if function in gpu.unsupported:
            raise NVMLError(self.NVML_ERROR_NOT_SUPPORTED)
        return value
