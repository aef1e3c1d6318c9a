"""Memory of a measurement: what was resident at most, what is refused, where the boundary lies."""

import math
import os
import sys

import numpy as np
import pytest
from fake_nvml import FakeNvml, Gpu

from collectors import _machine, _memory, _nvml

MIB = 2**20


@pytest.mark.parametrize("high", [1, 2, 3, 7, 8, 100])
def test_the_boundary_is_found_wherever_it_lies(high):
    for boundary in range(high + 1):
        asked = []

        def fits(number, asked=asked, boundary=boundary):
            asked.append(number)
            return number <= boundary

        assert _memory.largest(fits, 1, high) == boundary
        assert all(1 <= number <= high for number in asked)
        assert len(asked) == len(set(asked)) <= 2 * math.log2(high + 1) + 2


def test_the_boundary_of_a_range_that_starts_higher():
    assert _memory.largest(lambda number: number <= 300, 256, 8192) == 300
    assert _memory.largest(lambda number: False, 256, 8192) == 255
    with pytest.raises(ValueError, match="from 9 to 8 there is nothing"):
        _memory.largest(lambda number: True, 9, 8)


def test_the_peak_is_what_was_resident_above_the_baseline(monkeypatch):
    monkeypatch.setitem(sys.modules, "psutil", None)
    baseline = _memory.resident_bytes()
    watch = _memory.MemoryWatch("cpu")
    with watch:
        block = np.ones(64 * MIB // 8)
        del block
    peak = watch.columns(baseline)["memory_peak_bytes"]
    assert 56 * MIB < peak < 256 * MIB
    assert watch.columns(None) == {"memory_peak_bytes": None}
    assert watch.columns(1e15) == {"memory_peak_bytes": None}


def test_resident_bytes_are_the_kernels_or_psutils(monkeypatch, tmp_path):
    psutil = pytest.importorskip("psutil")
    assert _memory.resident_bytes() == pytest.approx(psutil.Process().memory_info().rss, rel=0.2)
    monkeypatch.setattr(_memory, "STATM", tmp_path / "absent")
    assert _memory.resident_bytes() == pytest.approx(psutil.Process().memory_info().rss, rel=0.2)
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert _memory.resident_bytes() is None


def test_what_is_more_than_free_is_refused_without_being_touched():
    pytest.importorskip("torch")
    free = _machine.available_memory_bytes()
    assert free is not None
    _memory.check_free("cpu", 0.05 * free)
    with pytest.raises(
        _memory.TooLargeError, match=r"needs at least \d+\.\d GiB, more than 90% of the \d+\.\d GiB that are free\."
    ):
        _memory.check_free("cpu", 0.97 * free)
    with pytest.raises(RuntimeError, match="allocate memory"):
        _memory.check_free("cpu", 1e15)


def test_trimming_gives_memory_back():
    pytest.importorskip("torch")
    blocks = [bytearray(64 * 1024) for _ in range(2000)]
    held = _memory.resident_bytes()
    del blocks
    _memory.trim()
    assert _memory.resident_bytes() < held


def test_device_memory_of_this_process_where_the_driver_shows_it():
    gpu = Gpu(processes=[(os.getpid() + 1, 9), (os.getpid(), 5 * MIB)])
    nvml = FakeNvml(gpu)
    assert _nvml.process_bytes(nvml, gpu) == 5 * MIB
    for processes in ([], [(os.getpid() + 1, 9)], [(os.getpid(), None)]):
        gpu.processes = processes
        assert _nvml.process_bytes(nvml, gpu) is None
