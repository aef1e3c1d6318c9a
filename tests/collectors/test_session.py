"""What every measuring collector shares: how a failure becomes a status."""

import math
import signal
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from collectors import _memory, _session, _steps, _workers  # noqa: E402


def raised(name, text):
    return _workers.WorkerRaisedError(text, "a cell", name)


@pytest.mark.parametrize(
    ("error", "status", "detail"),
    [
        (_workers.WorkerTimeoutError("took longer than its limit", 0), "timeout", "took longer than its limit"),
        (
            _workers.WorkerDiedError("rank 1 was ended by SIGKILL", 0, signal.SIGKILL),
            "oom",
            "rank 1 was ended by SIGKILL, as a system does whose memory has run out",
        ),
        (
            _workers.WorkerDiedError("rank 0 was ended by SIGSEGV", 0, signal.SIGSEGV),
            "error",
            "rank 0 was ended by SIGSEGV",
        ),
        (
            _workers.WorkerDiedError("rank 0 ended with exit status 3", 0, None),
            "error",
            "rank 0 ended with exit status 3",
        ),
        (raised("OutOfMemoryError", "CUDA out of memory.\nmore"), "oom", "OutOfMemoryError: CUDA out of memory."),
        (torch.OutOfMemoryError("CUDA out of memory."), "oom", "OutOfMemoryError: CUDA out of memory."),
        (MemoryError(), "oom", "MemoryError: "),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "oom", "RuntimeError: DefaultCPUAllocator"),
        (raised("RuntimeError", "first\nCUDA error: out of memory"), "oom", "RuntimeError: first"),
        (_memory.TooLargeError("needs at least 9.0 GiB and 1.0 GiB are free."), "oom", "1.0 GiB are free; not tried"),
        (
            _steps.UnsupportedError("a CUDA graph needs a CUDA device"),
            "unsupported",
            "a CUDA graph needs a CUDA device",
        ),
        (raised("UnsupportedError", "2 heads for 4 ranks"), "unsupported", "2 heads for 4 ranks"),
        (NotImplementedError("no such collective"), "unsupported", "NotImplementedError: no such collective"),
        (raised("ModuleNotFoundError", "No module named 'x'"), "unsupported", "ModuleNotFoundError: No module"),
        (raised("TypeError", "unexpected keyword"), "error", "TypeError: unexpected keyword"),
        (ValueError("shape mismatch\nmore"), "error", "ValueError: shape mismatch"),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, Exception) else None,
)
def test_a_failure_is_a_status_with_its_cause(error, status, detail):
    columns = _session.failure(error)
    assert columns["status"] == status
    assert detail in columns["status_detail"]
    assert "\n" not in columns["status_detail"]


def test_what_is_said_of_a_failure_stays_short():
    for error in (ValueError("x" * 9000), _steps.UnsupportedError("x" * 9000)):
        assert len(_session.failure(error)["status_detail"]) == 500


def test_shares_are_of_all_devices_and_only_of_what_is_known():
    session = _session.Session(
        collector="microbench", source={}, landing=Path(), report=lambda line: None, device="cpu",
        hardware={"peak_bf16_flops_per_s": 100.0, "memory_bandwidth_bytes_per_s": 40.0, "peak_fp32_flops_per_s": None},
        is_hardware_new=False, ceilings={"peak_bf16_flops_per_s": 50.0}, environment={}, known={}, refused=set(),
    )  # fmt: skip
    both = session.shares("bf16", flops_per_s=20.0, bytes_per_s=10.0, num_devices=2)
    assert both == {"mfu": 0.1, "mbu": 0.125, "mfu_achievable": 0.2}
    assert session.shares("bf16", flops_per_s=20.0) == {"mfu": 0.2, "mfu_achievable": 0.4}
    assert session.shares("fp32", flops_per_s=20.0, bytes_per_s=10.0) == {"mbu": 0.25}
    assert replace(session, ceilings=None).shares("bf16", flops_per_s=20.0) == {"mfu": 0.2}


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf")])
def test_seconds_are_a_number_above_0(value):
    with pytest.raises(ValueError, match=f"budget_s is a number of seconds above 0, not {value:g}"):
        _session.check_seconds("budget_s", value)
    _session.check_seconds("budget_s", None)
    _session.check_seconds("budget_s", 1e-9)


@pytest.mark.parametrize(
    ("outcome", "limit_s"),
    [
        ({"status": "ok"}, math.inf),
        ({"status": "unsupported", "status_detail": "an encoder has no decode"}, math.inf),
        ({"status": "oom", "status_detail": "OutOfMemoryError: CUDA out of memory."}, math.inf),
        ({"status": "oom", "status_detail": "needs at least 9.0 GiB and 1.0 GiB are free; not tried"}, None),
        ({"status": "timeout", "status_detail": "not started: its bound exceeds the limit of 1 s"}, None),
        ({"status": "timeout", "status_detail": "took longer than its limit", "duration_s": 30.0}, 30.0),
        ({"status": "timeout", "status_detail": "took longer than its limit"}, 0.0),
        ({"status": "error", "status_detail": "TypeError: unexpected keyword"}, None),
    ],
    ids=lambda one: one["status"] if isinstance(one, dict) else None,
)
def test_what_another_try_would_not_change(outcome, limit_s):
    assert _session.final_up_to(outcome) == limit_s


def test_a_landing_folder_that_cannot_be_is_refused_before_anything_is_measured(tmp_path):
    (tmp_path / "landing").write_text("a file")
    with pytest.raises(FileExistsError), _session.open_session("local_profile", {}, tmp_path / "landing", device="cpu"):
        pytest.fail("a session was opened")
