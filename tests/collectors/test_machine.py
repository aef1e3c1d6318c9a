"""The machine at hand: what is recorded of it, what never is, and who may measure on it."""

import os
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from fake_nvml import FakeNvml, Gpu

from collectors import _machine
from warehouse import catalog, parquet, schema


def test_environment_is_a_row_whose_id_is_its_content():
    row = _machine.environment("some-device")
    assert parquet.check("environments", [row]).num_rows == 1
    content = {name: value for name, value in row.items() if name != "environment_id"}
    assert row["environment_id"] == schema.digest(content) == _machine.environment("some-device")["environment_id"]
    assert row["environment_id"] != _machine.environment("another-device")["environment_id"]
    assert row["cpu_count"] >= 1
    assert row["python_version"] == ".".join(map(str, sys.version_info[:3]))
    assert f"pyarrow=={parquet.pa.__version__}" in row["packages"]


def test_environment_needs_no_torch_in_memory():
    code = (
        "import sys; from collectors import _machine; row = _machine.environment(); "
        "print(row['torch_version'], 'torch' in sys.modules, row['num_threads'])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert out == [_machine.package_version("torch"), "False", "None"]


def test_only_harmless_variables_that_change_speed_are_kept():
    environ = {
        "OMP_NUM_THREADS": "4",
        "NCCL_SOCKET_IFNAME": "eth0",
        "CUDA_VISIBLE_DEVICES": "0,1",
        "CUDA_HOME": "/home" + "/somebody/cuda",
        "TORCH_API_KEY": "abc",
        "NCCL_HOSTID": "node17",
        "MKL_LICENSE": "sk4f9a8b7c6d5e4f3a2b1c",
        "CUDA_DEVICE": "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6",
        "PATH": "/usr/bin",
        "HOSTNAME": "box",
    }
    assert _machine.speed_variables(environ) == {
        "CUDA_VISIBLE_DEVICES": "0,1",
        "NCCL_SOCKET_IFNAME": "eth0",
        "OMP_NUM_THREADS": "4",
    }


def test_hardware_row_is_complete_and_stays_the_same_within_a_process():
    pytest.importorskip("torch")
    row = _machine.hardware_row("cpu")
    assert row == _machine.hardware_row("cpu")
    assert row["hardware_id"] == _machine.hardware_id("cpu")
    assert parquet.check("hardware", [row]).num_rows == 1
    device = catalog.hardware_from_row(row)
    assert device.kind == "cpu"
    assert device.peak("fp32") > 1e9
    assert device.peak("bf16") > 0
    assert device.memory_bandwidth_bytes_per_s > 1e8


def test_an_unknown_device_is_refused():
    with pytest.raises(ValueError, match=r"'tpu' is not a device\. Known: auto, cpu, cuda"):
        _machine.resolve_device("tpu")


def test_a_second_measurement_waits_for_the_first_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = (
        "import sys, tempfile; tempfile.tempdir = sys.argv[1]; from collectors import _machine\n"
        "with _machine.device_lock('cpu'): print('held', flush=True); sys.stdin.readline()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        said, waiting, got = [], threading.Event(), threading.Event()

        def report(line):
            said.append(line)
            waiting.set()

        def wait():
            with _machine.device_lock("cpu", report):
                got.set()

        thread = threading.Thread(target=wait)
        thread.start()
        assert waiting.wait(20)
        assert not got.is_set()
        assert "Another measurement holds cpu" in said[0]
        holder.stdin.write("\n")
        holder.stdin.flush()
        thread.join(20)
    assert got.is_set()
    assert said[1].startswith("Got cpu after")


# ---- what the driver and the system tell


@pytest.fixture
def install(monkeypatch):
    """Make these GPUs the machine's."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def install(*gpus):
        monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(*gpus))

    return install


def test_environment_holds_what_the_driver_says_of_a_gpu(install):
    install(Gpu(application_clock_mhz=1410, power_limit_w=350.5), Gpu())
    row = _machine.environment()
    assert {name: row[name] for name in _machine.environment() if name in EXPECTED} == EXPECTED
    assert parquet.check("environments", [row]).num_rows == 1
    assert "GPU-" not in str(row)


EXPECTED = {
    "gpu_name": "NVIDIA H100 80GB HBM3",
    "gpu_count": 2,
    "gpu_memory_bytes": 80.0 * 2**30,
    "driver_version": "580.95.05",
    "power_limit_w": 350.5,
    "sm_clock_max_hz": 1.98e9,
    "memory_clock_max_hz": 2.619e9,
    "sm_clock_limit_hz": 1.41e9,
    "vbios_version": "96.00.89.00.01",
    "is_ecc_enabled": True,
    "is_mig_enabled": False,
    "is_persistence_enabled": True,
    "pcie_generation": 5,
    "pcie_width": 16,
    "num_nvlinks": 18,
}


def test_what_the_driver_does_not_say_is_null(install):
    install(
        Gpu(
            num_nvlinks=0,
            unsupported=frozenset({"nvmlDeviceGetEccMode", "nvmlDeviceGetMigMode", "nvmlDeviceGetEnforcedPowerLimit"}),
        )
    )
    row = _machine.environment()
    for name in ("num_nvlinks", "is_ecc_enabled", "is_mig_enabled", "power_limit_w", "sm_clock_limit_hz"):
        assert row[name] is None, name
    assert row["gpu_name"] == "NVIDIA H100 80GB HBM3"


def test_a_lost_gpu_leaves_an_environment_without_one(install):
    install(Gpu(is_lost=True))
    row = _machine.environment()
    assert "gpu_name" not in row
    assert row["cpu_name"]


def test_environment_reads_the_processors_files(tmp_path, monkeypatch):
    files = {
        "devices/system/node/node0/cpulist": "0-15",
        "devices/system/node/node1/cpulist": "16-31",
        "devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance",
        "devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "3700000",
        ".containerenv": f'engine="podman-5.4"\nname="secret-name"\nimageid="{"ab" * 32}"\n',
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    monkeypatch.setattr(_machine, "SYS", tmp_path)
    monkeypatch.setattr(_machine, "RUN", tmp_path)
    row = _machine.environment()
    assert (row["num_numa_nodes"], row["cpu_governor"], row["cpu_clock_max_hz"]) == (2, "performance", 3.7e9)
    assert row["container_digest"] == "sha256:" + "ab" * 32
    assert "secret-name" not in str(row)


def test_the_commit_is_the_checkouts_own(tmp_path):
    """Of a copy in a checkout: its commit, `+` once its code is changed; of a copy in somebody's other one: none."""
    code = Path(_machine.__file__).parent.parent
    copy = tmp_path / "copy"
    for name in ("collectors/__init__.py", "collectors/_machine.py", "collectors/_nvml.py"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((code / name).read_bytes())
    (copy / "warehouse").symlink_to(code / "warehouse")

    def commit():
        script = "from collectors import _machine; print(_machine.environment()['git_commit'])"
        environ = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
        out = subprocess.run(
            [sys.executable, "-c", script], cwd=copy, env=environ, capture_output=True, text=True, check=True
        )
        return out.stdout.strip()

    def git(*words, folder=copy):
        names = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
        return subprocess.run(
            ["git", "-C", folder, *names, *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    git("init", "-q", folder=tmp_path)
    git("commit", "-q", "--allow-empty", "-m", "Another", folder=tmp_path)
    assert commit() == "None"
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "First")
    head = git("rev-parse", "HEAD")
    assert re.fullmatch(r"[0-9a-f]{40}", head)
    assert commit() == head
    (copy / "collectors" / "_nvml.py").write_text((copy / "collectors" / "_nvml.py").read_text() + "# changed\n")
    assert commit() == head + "+"


def test_isolation_names_what_disturbs_a_gpu(install, monkeypatch):
    install(Gpu(processes=[(os.getpid() + 1, 5)], ecc=0, mig=1, application_clock_mhz=1410, power_limit_w=350.0))
    assert [note for note in _machine.isolation("cuda") if "cores" not in note] == [
        "1 other process on the GPU",
        "the GPU is cut into instances (MIG)",
        "error-correcting device memory is off",
        "applications are held to a compute clock of 1410 MHz",
        "power is limited to 350 W of 700 W",
    ]
    install(Gpu(processes=[(os.getpid(), 5)]))
    assert [note for note in _machine.isolation("cuda") if "cores" not in note] == []


def test_isolation_sees_processors_that_others_keep_busy():
    spin = "import time; print(1, flush=True)\nwhile True: pass"
    spinners = [
        subprocess.Popen([sys.executable, "-c", spin], stdout=subprocess.PIPE) for _ in range(_machine.usable_cores())
    ]
    try:
        for one in spinners:
            one.stdout.readline()
        assert any(
            re.fullmatch(r"other processes keep \d+% of the cores busy", note) for note in _machine.isolation("cpu")
        )
    finally:
        for one in spinners:
            one.kill()
            one.wait()
            one.stdout.close()


def test_a_ceiling_is_tried_again_for_as_long_as_others_are_busy(tmp_path, monkeypatch):
    """The system's count of processor seconds, as files: others work until the third look, and by then all of it is seen."""
    pytest.importorskip("torch")
    monkeypatch.setattr(_machine, "PROC", tmp_path)
    monkeypatch.setattr(_machine, "PAUSE_S", 0.0)
    seconds, values = [0.0], iter([4.0, 3.0, 20.0, 5.0, 23.0, 99.0])

    def say(busy_s):
        seconds[0] += busy_s
        ticks = int((seconds[0] + 1e6) * os.sysconf("SC_CLK_TCK"))
        (tmp_path / "stat").write_text(f"cpu {ticks} 0 0 0 0 0 0 0 0 0\n")

    def measure():
        value = next(values)
        say(10.0 if value < 23 else 0.0)
        return value

    say(0.0)
    assert _machine._roof(measure, "cpu", patience_s=60.0) == 23.0
    assert next(values) == 99.0, "nobody else was busy: done"
    values = iter([4.0, 3.0, 20.0])
    assert _machine._roof(measure, "cpu") == 4.0, "a ceiling of cores alone is not waited for"


def test_measured_ceilings_have_an_id_of_their_own():
    assert _machine.measured_id("h100-sxm") == "h100-sxm-measured"


def test_memory_and_load_are_known_without_psutil(monkeypatch):
    monkeypatch.setitem(sys.modules, "psutil", None)
    with _machine.Load() as load:
        sum(range(10**6))
    assert load.others_s is not None
    assert load.own_s > 0
    assert load.other_ratio() >= 0
    assert 0 < _machine.available_memory_bytes() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
