"""Work in processes of its own: what comes back, and what a death, a hang, an exception or the parent's end leaves."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import worker_tasks as tasks  # noqa: E402

from collectors import _workers  # noqa: E402


def is_alive(pid):
    """Whether a process runs; one that ended and was not waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition, limit_s=60.0):
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_every_rank_works_in_a_process_of_its_own_and_results_come_by_rank():
    results = _workers.run(tasks.who, (2,), num_ranks=3)
    assert [(rank, count) for rank, count, _ in results] == [(0, 3), (1, 3), (2, 3)]
    pids = [double // 2 for _, _, double in results]
    assert len({*pids, os.getpid()}) == 4
    assert not any(is_alive(pid) for pid in pids)


def test_messages_come_in_order_with_their_rank():
    heard = []
    results = _workers.run(tasks.tell, num_ranks=2, on_message=lambda rank, message: heard.append((rank, message)))
    assert results == ["told", "told"]
    for rank in range(2):
        assert [message for who, message in heard if who == rank] == [("one", rank), ("two", rank)]


def test_tensors_outlive_the_process_that_made_them():
    (result,) = _workers.run(tasks.tensor)
    assert torch.equal(result, torch.arange(3))


def test_ranks_meet_and_reduce():
    assert _workers.run(tasks.add_up, num_ranks=2, backend="gloo") == [3.0, 3.0]


def test_an_exception_says_its_class_its_text_and_what_was_begun():
    with pytest.raises(_workers.WorkerRaisedError, match="no more\nof it") as caught:
        _workers.run(tasks.fail)
    assert (caught.value.cause_type, caught.value.at) == ("MemoryError", "failing")


def test_a_result_that_cannot_be_handed_over_is_an_exception():
    with pytest.raises(_workers.WorkerRaisedError, match="pickle"):
        _workers.run(tasks.unpicklable)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_death_says_its_signal_and_what_was_begun(number):
    with pytest.raises(_workers.WorkerDiedError, match=number.name) as caught:
        _workers.run(tasks.die, ("cell 7", int(number)))
    assert (caught.value.at, caught.value.signal_number) == ("cell 7", number)


def test_an_exit_without_a_result_is_a_death_without_a_signal():
    with pytest.raises(_workers.WorkerDiedError, match="exit status 3") as caught:
        _workers.run(tasks.leave)
    assert (caught.value.at, caught.value.signal_number) == ("leaving", None)


def test_a_hang_ends_at_its_limit():
    with pytest.raises(_workers.WorkerTimeoutError, match=r"limit of 0\.2 s") as caught:
        _workers.run(tasks.hang, (0.2,))
    assert caught.value.at == "hanging"


@pytest.mark.parametrize(
    ("how", "kind", "text"),
    [
        ("raise", _workers.WorkerRaisedError, "the cause"),
        ("die", _workers.WorkerDiedError, "rank 1 .* SIGKILL"),
        ("die later", _workers.WorkerDiedError, "rank 1 .* SIGKILL"),
    ],
)
def test_the_rank_that_failed_is_named_not_those_that_waited_for_it(how, kind, text):
    with pytest.raises(kind, match=text) as caught:
        _workers.run(tasks.fail_while_others_wait, (how,), num_ranks=2, backend="gloo")
    assert caught.value.at == "together"


def test_a_rank_that_ended_well_is_no_cause():
    with pytest.raises(_workers.WorkerRaisedError, match="alone"):
        _workers.run(tasks.fail_alone, num_ranks=2)


def test_an_error_of_who_listens_ends_the_workers():
    pids = []

    def refuse(_, pid):
        pids.append(pid)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        _workers.run(tasks.tell_pid, num_ranks=2, on_message=refuse)
    assert len(pids) == 1
    assert not is_alive(pids[0])


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    code = f"from collectors import _workers; import worker_tasks; _workers.run(worker_tasks.note_pid, ({str(tmp_path)!r},), num_ranks=2)"
    root = Path(_workers.__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "tests")])}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, cwd=root) as parent:
        until(lambda: len(list(tmp_path.glob("*.pid"))) == 2 or parent.poll() is not None)
        pids = [int(path.read_text()) for path in tmp_path.glob("*.pid")]
        assert len(pids) == 2
        assert all(is_alive(pid) for pid in pids)
        parent.send_signal(signal.SIGKILL)
    until(lambda: not any(is_alive(pid) for pid in pids))
