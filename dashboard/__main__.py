"""Serve the dashboard: `python -m dashboard --home DIR [--host 127.0.0.1] [--port 8050]`."""

from __future__ import annotations

import argparse
import logging
import socket
import sys

from warehouse.store import StoreError

THREADS = 8


def main(argv: list[str] | None = None) -> int:
    """Serve until interrupted. Exit code 2 where there is no lakehouse or the port is taken."""
    parser = argparse.ArgumentParser(prog="python -m dashboard", description="Serve the dashboard of a lakehouse.")
    parser.add_argument("--home", help="home folder of the lakehouse (ROOFLAKE_HOME, else ./rooflake-data)")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to bind; 0.0.0.0 opens it to the network, without any login"
    )
    parser.add_argument("--port", type=int, default=8050, help="port to listen on")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        _require_free(options.host, options.port)
        import waitress

        from dashboard.app import create_app
        from dashboard.asking import is_loopback

        app = create_app(options.home, can_ask=is_loopback(options.host))
    except (StoreError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"Rooflake is at http://{options.host}:{options.port} (Ctrl+C stops it)\n")
    sys.stdout.flush()
    try:
        waitress.serve(app.server, host=options.host, port=options.port, threads=THREADS, ident="rooflake", _quiet=True)
    except OSError as error:
        sys.stderr.write(f"{_taken(options.host, options.port, error)}\n")
        return 2
    except KeyboardInterrupt:
        pass
    return 0


def _require_free(host: str, port: int) -> None:
    """Raises OSError with a sentence where nothing can listen there."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except (OSError, OverflowError) as error:
        raise OSError(_taken(host, port, error)) from error


def _taken(host: str, port: int, error: Exception) -> str:
    reason = getattr(error, "strerror", None) or str(error)
    return f"Port {port} on {host} cannot be used ({reason}). Choose another with --port, for example --port {port + 1 if port < 65535 else 8051}."


if __name__ == "__main__":
    sys.exit(main())
