"""What every test starts from: a clean environment, and what the machine has to offer or a reason to skip."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

SETTINGS = {
    "OMP_NUM_THREADS": "1",  # two OpenMP threads on two busy cores train thirty times slower
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "NO_PROXY": "127.0.0.1,localhost",
    "no_proxy": "127.0.0.1,localhost",
}
FORGOTTEN = ("ROOFLAKE_", "PREFECT_", "HF_", "OPENAI_")

HOME_KEY = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """Set the environment before anything is collected: torch reads its thread count when it is imported.

    HOME is an empty folder, so that what a person keeps in theirs decides no test and no test writes there; pip alone
    keeps its cache and its configuration.
    """
    real_home = Path.home()
    for name in [name for name in os.environ if name.startswith(FORGOTTEN) and name != "ROOFLAKE_SHARED"]:
        del os.environ[name]
    os.environ.update(SETTINGS)
    os.environ.setdefault("PIP_CACHE_DIR", str(real_home / ".cache" / "pip"))
    if (real_home / ".config" / "pip" / "pip.conf").exists():
        os.environ.setdefault("PIP_CONFIG_FILE", str(real_home / ".config" / "pip" / "pip.conf"))
    config.stash[HOME_KEY] = os.environ["HOME"] = tempfile.mkdtemp(prefix="rooflake-tests-home-")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the empty home and what libraries left there."""
    shutil.rmtree(config.stash[HOME_KEY], ignore_errors=True)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data beside the repository; it is no part of it."""
    folder = Path(os.environ.get("ROOFLAKE_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no reference data: '{folder.name}' does not lie beside the repository")
    return folder


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a Chromium to drive; as root it needs `--no-sandbox`."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    pytest.skip("no chromium on PATH: `apt-get install chromium` brings it (.ci/run does)")


@pytest.fixture
def free_port() -> int:
    """A loopback port nobody listens on just now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port
