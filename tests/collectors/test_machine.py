"""The machine at hand: what is recorded of it, what never is, and who may measure on it."""

import subprocess
import sys
import tempfile
import threading

import pytest

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
