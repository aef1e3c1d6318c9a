"""Telemetry and energy against a driver, counters and files whose truth is known."""

import itertools
import math
import os
import re
import statistics
import sys
import threading
import time
from pathlib import Path

import pytest
from fake_nvml import FakeNvml, Gpu

from collectors import _telemetry, _timing
from warehouse import parquet

PATIENCE_S = 20.0


@pytest.fixture
def install(monkeypatch):
    """Make these GPUs the machine's."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def install(*gpus):
        fake = FakeNvml(*gpus)
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        return fake

    return install


class Clock:
    """A clock that moves when told."""

    def __init__(self):
        self.now = 50.0

    def __call__(self):
        return self.now


def wait_for(condition):
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def readings(telemetry, index=0):
    return [row for row in telemetry.rows("r") if row["device_index"] == index]


def test_the_double_has_only_names_of_the_real_binding():
    real = pytest.importorskip("pynvml")
    names = [name for name in dir(FakeNvml) if name.startswith(("nvml", "NVML"))]
    assert len(names) > 30
    assert [name for name in names if not hasattr(real, name)] == []
    for name in names:
        if name.startswith("NVML_") and name != "NVML_NVLINK_MAX_LINKS":
            assert getattr(FakeNvml, name) == getattr(real, name), name


def test_throttle_words_are_the_real_bindings_bits():
    real = pytest.importorskip("pynvml")
    prefix = "nvmlClocks(?:Event|Throttle)Reason"
    bits = {value for name, value in vars(real).items() if re.fullmatch(prefix + r"(?!s[A-Z]|None|All)[A-Z]\w+", name)}
    bits.remove(real.nvmlClocksEventReasonGpuIdle)
    assert bits == set(_telemetry.THROTTLE_REASONS)


def test_every_question_to_the_driver_is_one_of_the_real_binding():
    real = pytest.importorskip("pynvml")
    folder = Path(_telemetry.__file__).parent
    source = "".join((folder / f"{name}.py").read_text() for name in ("_nvml", "_telemetry", "_machine"))
    asked = set(re.findall(r"\bnvml[A-Z]\w+|\bNVML_\w+", source))
    asked -= {"nvmlDeviceGet", "nvmlReturn"}  # nvmlDeviceGet{which}ApplicationsClock, a field of an answer
    assert len(asked) > 30
    assert {name for name in asked if not hasattr(real, name)} == set()
    assert hasattr(real, "nvmlDeviceGetDefaultApplicationsClock")


def test_readings_of_a_gpu_and_the_host_are_rows_of_the_contract(install):
    install(Gpu(processes=[(os.getpid() + 1, 5), (os.getpid(), 3 * 2**30)], swing_w=0.0))
    with _telemetry.Telemetry("cuda") as telemetry:
        wait_for(lambda: len(readings(telemetry)) >= 3 and len(readings(telemetry, -1)) >= 3)
    rows = telemetry.rows("r")
    assert parquet.check("telemetry", rows).num_rows == len(rows)
    one = readings(telemetry)[0]
    assert one["power_w"] == pytest.approx(300.0)
    assert (one["sm_clock_hz"], one["memory_clock_hz"], one["temperature_c"]) == (1.755e9, 2.619e9, 41.0)
    assert (one["utilization"], one["memory_utilization"]) == (0.97, 0.42)
    assert (one["memory_used_bytes"], one["process_memory_bytes"]) == (7 * 2**30, 3 * 2**30)
    assert one["throttle_reasons"] == []  # idle is none
    host = readings(telemetry, -1)[-1]
    assert host["throttle_reasons"] is None
    assert host["memory_used_bytes"] > 1e6
    assert all(0 <= row["utilization"] <= 1 for row in readings(telemetry, -1) if row["utilization"] is not None)
    assert telemetry.note is None
    assert telemetry.columns() == pytest.approx(
        {
            "throttled_ratio": 0.0,
            "power_avg_w": 300.0,
            "memory_process_bytes": 3 * 2**30,
            "memory_device_bytes": 7 * 2**30,
        }
    )


def test_ten_readings_a_second_at_least(install):
    install(Gpu())
    with _telemetry.Telemetry("cuda") as telemetry:
        wait_for(lambda: len(readings(telemetry)) >= 15)
    at = [row["at_s"] for row in readings(telemetry)]
    assert statistics.median(b - a for a, b in itertools.pairwise(at)) <= 0.1


def test_what_a_driver_does_not_tell_is_null(install):
    install(
        Gpu(
            unsupported=frozenset(
                {
                    "nvmlDeviceGetTotalEnergyConsumption",
                    "nvmlDeviceGetUtilizationRates",
                    "nvmlDeviceGetCurrentClocksEventReasons",
                    "nvmlDeviceGetCurrentClocksThrottleReasons",
                    "nvmlDeviceGetFieldValues",
                }
            ),
            processes=[(os.getpid(), None)],
        )
    )
    with _telemetry.Telemetry("cuda") as telemetry:
        wait_for(lambda: readings(telemetry))
    one = readings(telemetry)[0]
    for name in ("energy_j", "utilization", "memory_utilization", "process_memory_bytes", "throttle_reasons"):
        assert one[name] is None, name
    assert one["power_w"] == pytest.approx(300.0)  # the older reading
    assert set(telemetry.columns()) == {"power_avg_w", "memory_device_bytes"}


def test_samples_taken_under_throttle_are_flagged(install):
    gpu = Gpu()
    install(gpu)
    marks = {}
    with _telemetry.Telemetry("cuda") as telemetry:
        for name, bits in (("before", 0x1), ("under", 0x4 | 0x20), ("after", 0x0)):
            gpu.throttle_bits = bits
            seen = len(readings(telemetry))
            wait_for(lambda seen=seen: len(readings(telemetry)) >= seen + 3)
            marks[name] = time.perf_counter()
            seen = len(readings(telemetry))
            wait_for(lambda seen=seen: len(readings(telemetry)) >= seen + 3)
    assert telemetry.columns(since=marks["after"])["throttled_ratio"] == 0.0
    late = telemetry.rows("r", since=marks["after"])
    assert 0 < len(late) < len(telemetry.rows("r"))
    assert 0 <= late[0]["at_s"] < late[-1]["at_s"]
    reasons = {tuple(row["throttle_reasons"]) for row in readings(telemetry)}
    assert reasons == {(), ("sw_power_cap", "sw_thermal_slowdown")}
    assert 0 < telemetry.columns()["throttled_ratio"] < 1
    samples = tuple(_timing.Sample("measured", marks[name], 1e-3, 1e-3, None) for name in ("before", "under", "after"))
    long = _timing.Sample("measured", marks["before"], marks["after"] - marks["before"], 1e-3, None)
    rows = _timing.Timing((*samples, long), 0.01).rows("r", telemetry.throttled_between)
    flags = {(row["metric"], row["sample_index"]): row["flags"] for row in rows}
    assert [flags["latency_s", index] for index in range(4)] == [[], ["throttled"], [], ["throttled"]]
    assert flags["cpu_time_s", 1] == ["throttled"]
    assert parquet.check("samples", rows).num_rows == 8


@pytest.mark.parametrize("fault", ["is_lost", "is_silent"])
def test_a_device_that_disappears_leaves_its_readings_and_a_sentence(install, fault):
    gpu = Gpu()
    install(gpu)
    with _telemetry.Telemetry("cuda") as telemetry:
        wait_for(lambda: len(readings(telemetry)) >= 2)
        setattr(gpu, fault, True)
        wait_for(lambda: telemetry.note)
        hosts = len(readings(telemetry, -1))
        wait_for(lambda: len(readings(telemetry, -1)) > hosts)  # the host is still read
    assert re.fullmatch(r"telemetry: GPU 0 no longer answered after \d+\.\d s.*", telemetry.note)
    assert len(readings(telemetry)) >= 2
    assert all(row["power_w"] == pytest.approx(300.0) for row in readings(telemetry))


def test_a_device_that_is_lost_before_leaves_a_sentence(install):
    install(Gpu(is_lost=True))
    with _telemetry.Telemetry("cuda") as telemetry:
        wait_for(lambda: readings(telemetry, -1))
    assert telemetry.note == "telemetry: the driver shows no GPU 0"
    energy = _telemetry.measure_energy(lambda: None, device="cuda")
    assert energy.reason == "energy: the driver shows no GPU 0"


def test_a_driver_that_hangs_holds_nobody_up(install, monkeypatch):
    monkeypatch.setattr(_telemetry, "ANSWER_LIMIT_S", 0.1)
    hanging, release = threading.Event(), threading.Event()

    class Hanging(FakeNvml):
        def nvmlDeviceGetMemoryInfo(self, gpu):
            hanging.set()
            release.wait(PATIENCE_S)
            return super().nvmlDeviceGetMemoryInfo(gpu)

    monkeypatch.setitem(sys.modules, "pynvml", Hanging(Gpu()))
    with _telemetry.Telemetry("cuda") as telemetry:
        assert hanging.wait(PATIENCE_S)
    release.set()
    assert telemetry.note == "telemetry: the driver did not answer for 0.1 s"


def test_without_a_driver_the_host_is_read_and_a_note_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with _telemetry.Telemetry("cuda") as telemetry:
        wait_for(lambda: readings(telemetry, -1))
    assert telemetry.note == "telemetry: no NVIDIA driver library or no pynvml"
    assert telemetry.columns() == {}
    assert not telemetry.throttled_between(0.0, math.inf)


@pytest.mark.parametrize(
    ("visible", "asked", "names", "note"),
    [
        (None, None, ["a", "b", "c"], None),
        ("2,0", None, ["c", "a"], None),
        ("2,0", (0,), ["c"], None),
        ("GPU-b,0,7,1", None, ["b", "a"], None),
        ("", None, [], None),
        ("1", (0, 1), ["b"], "telemetry: the driver shows no GPU 1"),
    ],
)
def test_devices_are_counted_as_cuda_shows_them(install, monkeypatch, visible, asked, names, note):
    install(*(Gpu(uuid=f"GPU-{name}", base_w=float(ord(name))) for name in "abc"))
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with _telemetry.Telemetry("cuda", devices=asked) as telemetry:
        wait_for(lambda: readings(telemetry, -1))
    powers = {row["device_index"]: row["power_w"] for row in telemetry.rows("r") if row["device_index"] >= 0}
    assert powers == {index: pytest.approx(ord(name)) for index, name in enumerate(names)}
    assert telemetry.note == note


# ---- energy


def run_window(gpu, *, window_s=5.0, execution_s=0.037, limit_s=30.0, poll_s=0.01):
    """An energy window on a clock of its own: executions of `execution_s`, meters read every `poll_s`."""
    clock = Clock()
    fake = FakeNvml(gpu, clock=clock)
    window = _telemetry.EnergyWindow([_telemetry.Gpu(fake, gpu, 0)], window_s, clock)

    def execute():
        end = clock.now + execution_s
        while clock.now < end:
            clock.now = min(end, clock.now + poll_s)
            window.read()

    window.read()
    window.fill(execute, limit_s)
    return window.energy()


@pytest.mark.parametrize("execution_s", [0.001, 0.037, 0.8])
@pytest.mark.parametrize(("swing_w", "period_s"), [(0.0, 1.0), (250.0, 0.3), (100.0, 2.3)])
def test_energy_of_a_known_power_curve(execution_s, swing_w, period_s):
    gpu = Gpu(base_w=400.0, swing_w=swing_w, period_s=period_s)
    energy = run_window(gpu, execution_s=execution_s)
    assert energy.reason is None
    assert energy.definition == "nvml_total_energy"
    assert 5.0 <= energy.window_s < 7.0
    mean_w = 400.0  # of whole periods; the rest of one weighs less than 2 %
    assert energy.energy_j == pytest.approx(mean_w * execution_s, rel=0.02)
    assert energy.power_avg_w == pytest.approx(energy.energy_j * energy.executions / energy.window_s)
    assert energy.columns() == {
        "energy_j": energy.energy_j,
        "power_avg_w": energy.power_avg_w,
        "energy_window_s": energy.window_s,
    }


def test_without_a_counter_power_is_integrated():
    gpu = Gpu(base_w=120.0, swing_w=60.0, unsupported=frozenset({"nvmlDeviceGetTotalEnergyConsumption"}))
    energy = run_window(gpu)
    assert energy.definition == "nvml_power_integral"
    assert energy.energy_j == pytest.approx(120.0 * 0.037, rel=0.02)


@pytest.mark.parametrize(
    ("gpu", "reason"),
    [
        (Gpu(counter_factor=0.0), r"energy: no update of GPU 0 for 2\.\d s"),
        (Gpu(counter_factor=1.1), r"energy: GPU 0 counts 1\d{3}\.\d J where its power readings make .* 5% apart"),
        (Gpu(counter_factor=0.9), r"energy: GPU 0 counts 1\d{3}\.\d J where .* 5% apart"),
        (Gpu(power_readings_end_s=2.0), r"energy: \d\.\d s without a power reading of GPU 0"),
        (
            Gpu(unsupported=frozenset({"nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetPowerUsage"})),
            r"energy: no update of GPU 0 for 3\.\d s",
        ),
        (Gpu(is_lost=True), r"energy: the device no longer answered \(.*\)"),
    ],
)
def test_an_energy_that_cannot_be_trusted_is_null_with_its_reason(gpu, reason):
    energy = run_window(gpu)
    assert energy.energy_j is None
    assert energy.definition is None
    assert re.fullmatch(reason, energy.reason)
    assert energy.columns() == {}


def test_a_window_that_the_limit_cuts_is_null():
    energy = run_window(Gpu(), limit_s=3.0)
    assert re.fullmatch(r"energy: [12]\.\d s of a window of 5 s within 3 s", energy.reason)


def test_energy_of_calls_on_a_gpu_that_is_read_beside_them(install, monkeypatch):
    monkeypatch.setattr(_telemetry, "LEAD_S", 0.1)
    fake = install(Gpu(base_w=250.0, counter_update_s=0.0))
    log = []
    meters = [_telemetry.Gpu(fake, fake.gpus[0], 0)]
    window = _telemetry.EnergyWindow(meters, 0.5)
    with window.polled():
        window.fill(lambda: (log.append(1), time.sleep(0.01)), PATIENCE_S)
    energy = window.energy()
    assert energy.reason is None
    assert energy.power_avg_w == pytest.approx(250.0, rel=0.05)
    assert energy.executions <= len(log)


def test_no_counter_on_the_machine_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(_telemetry, "SYS", tmp_path)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    ran = []
    energy = _telemetry.measure_energy(lambda: ran.append(1), device="cpu")
    assert energy.reason == "energy: no RAPL counter readable here"
    assert _telemetry.measure_energy(lambda: ran.append(1), device="cuda").reason == (
        "energy: no NVIDIA driver library or no pynvml"
    )
    assert ran == []  # nothing is run in vain


# ---- the host's files


@pytest.fixture
def sysfs(tmp_path, monkeypatch):
    """A /sys of two packages (one wraps soon), a psys domain that counts them again, a sensor and two clocks."""
    files = {
        "class/powercap/intel-rapl:0/name": "package-0",
        "class/powercap/intel-rapl:0/energy_uj": "1000000",
        "class/powercap/intel-rapl:0/max_energy_range_uj": "262143328850",
        "class/powercap/intel-rapl:0:0/name": "core",
        "class/powercap/intel-rapl:0:0/energy_uj": "500000",
        "class/powercap/intel-rapl:0:0/max_energy_range_uj": "262143328850",
        "class/powercap/intel-rapl:1/name": "package-1",
        "class/powercap/intel-rapl:1/energy_uj": "99000000",
        "class/powercap/intel-rapl:1/max_energy_range_uj": "100000000",
        "class/powercap/intel-rapl:2/name": "psys",
        "class/powercap/intel-rapl:2/energy_uj": "7",
        "class/powercap/intel-rapl:2/max_energy_range_uj": "262143328850",
        "class/hwmon/hwmon0/name": "nvme",
        "class/hwmon/hwmon0/temp1_input": "99000",
        "class/hwmon/hwmon1/name": "k10temp",
        "class/hwmon/hwmon1/temp1_input": "61500",
    }
    for core in os.sched_getaffinity(0):
        files[f"devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq"] = "3400000"
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    monkeypatch.setattr(_telemetry, "SYS", tmp_path)

    def add(package, joules):
        for zone in (f"{package}", "0:0", "2"):
            folder = tmp_path / f"class/powercap/intel-rapl:{zone}"
            value = int((folder / "energy_uj").read_text()) + round(joules * 1e6)
            (folder / "energy_uj").write_text(str(value % int((folder / "max_energy_range_uj").read_text())))

    return add


def test_rapl_counts_packages_once_and_over_their_wrap(sysfs):
    rapl = _telemetry.Rapl()
    assert rapl.energy_j() == 0.0
    for _ in range(5):
        sysfs(0, 10.0)
        sysfs(1, 40.0)  # wraps every 100 J
        assert rapl.energy_j() is not None
    assert rapl.energy_j() == pytest.approx(250.0, abs=1e-3)


def test_energy_of_a_cpu_is_its_packages(sysfs):
    clock = Clock()
    window = _telemetry.EnergyWindow([_telemetry.Rapl()], 1.0, clock)

    def execute():
        for _ in range(10):
            clock.now += 0.01
            sysfs(0, 0.3)
            sysfs(1, 0.7)
            window.read()

    window.fill(execute, 30.0)
    energy = window.energy()
    assert (energy.definition, energy.reason) == ("rapl_package", None)
    assert energy.energy_j == pytest.approx(10.0, rel=0.02)
    assert energy.power_avg_w == pytest.approx(100.0, rel=0.02)


def test_energy_is_measured_beside_the_calls_and_their_errors_come_through(sysfs, monkeypatch):
    monkeypatch.setattr(_telemetry, "LEAD_S", 0.02)
    log = []

    def call():
        log.append("call")
        sysfs(0, 0.5)

    energy = _telemetry.measure_energy(
        call, device="cpu", prepare=lambda: log.append("prepare"), window_s=0.2, limit_s=PATIENCE_S
    )
    assert (energy.definition, energy.reason) == ("rapl_package", None)
    assert energy.energy_j > 0
    assert energy.window_s >= 0.2
    assert log == ["prepare", "call"] * (len(log) // 2)
    with pytest.raises(ZeroDivisionError):
        _telemetry.measure_energy(lambda: 1 / 0, device="cpu")


def test_counters_that_only_root_may_read_are_said_to_be_so(sysfs, tmp_path):
    (tmp_path / "class/powercap/intel-rapl:1/energy_uj").unlink()
    rapl = _telemetry.Rapl()
    assert rapl.energy_j() is None
    assert rapl.reason.startswith("energy: no RAPL counter readable here")


def test_the_host_is_read_from_its_files(sysfs):
    with _telemetry.Telemetry("cpu") as telemetry:
        wait_for(lambda: len(readings(telemetry, -1)) >= 2)
        sysfs(0, 5.0)
        seen = len(readings(telemetry, -1))
        wait_for(lambda: len(readings(telemetry, -1)) >= seen + 2)
    last = readings(telemetry, -1)[-1]
    assert (last["temperature_c"], last["sm_clock_hz"]) == (61.5, 3.4e9)
    assert last["energy_j"] == pytest.approx(5.0)
    assert telemetry.columns()["power_avg_w"] > 0
    assert {row["device_index"] for row in telemetry.rows("r")} == {-1}
