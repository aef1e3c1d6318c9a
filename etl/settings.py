"""Settings of the tools we start, applied by calling a function, never by importing."""

from __future__ import annotations

import os


def quiet_prefect() -> None:
    """Prefect without telemetry, with time to start its server on a slow machine. What the user set stays as it is."""
    defaults = {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
