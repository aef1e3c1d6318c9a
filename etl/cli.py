"""The `rooflake` command line. Each command opens, calls a library, and turns its exceptions into a sentence.

stdout is data, stderr is narration. Heavy libraries are imported by the command that needs them.
"""

from __future__ import annotations

import subprocess
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from warehouse.store import Home, StoreError, open_for_people, open_store

app = typer.Typer(
    name="rooflake",
    help="Where the field looks up how fast an LLM runs, on what, why, and what it would cost elsewhere.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
stderr = Console(stderr=True, highlight=False)

HomeOption = Annotated[
    Path | None,
    typer.Option("--home", help="Home folder; else ROOFLAKE_HOME, else ./rooflake-data.", show_default=False),
]


class Format(StrEnum):
    """How `rooflake sql` prints its rows."""

    table = "table"
    csv = "csv"
    json = "json"
    parquet = "parquet"


@app.command()
def sql(
    query: Annotated[str, typer.Argument(help="One SELECT over the lake's tables and views.")],
    home: HomeOption = None,
    format: Annotated[Format, typer.Option("--format", "-f", help="Output format.")] = Format.table,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write; parquet needs one.")] = None,
    limit: Annotated[int, typer.Option(help="Most rows returned.", min=1)] = 100_000,
) -> None:
    """Run one SELECT over the lakehouse: `rooflake sql "select source_kind, count(*) from runs group by 1"`."""
    from etl import output as writers

    if format is Format.parquet and output is None:
        _fail("Parquet is binary: name a file with --output FILE.")
    with open_for_people(Home.of(home), limit=limit) as run:
        rows = run(query)
    writers.write(rows, format.value, output)
    if rows.num_rows == limit:
        stderr.print(f"Stopped at {limit} rows. Ask for more with --limit.")


@app.command()
def load(home: HomeOption = None) -> None:
    """Load every landing file exactly once; files off the contract go to quarantine with the reason."""
    with open_store(Home.of(home)) as store:
        report = store.load()
    stderr.print(str(report))
    for name, reason in report.quarantined.items():
        stderr.print(f"quarantined {name}: {reason}", style="red", soft_wrap=True)
    if report.quarantined:
        raise typer.Exit(1)


@app.command()
def status(home: HomeOption = None) -> None:
    """What is in the lakehouse: rows by table and kind, snapshot, last load, files waiting and in quarantine."""
    from etl import output as writers

    with open_store(Home.of(home), read_only=True) as store:
        writers.status(store)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def collect(
    context: typer.Context, name: Annotated[str, typer.Argument(help="A collector.")], home: HomeOption = None
) -> None:
    """Run one collector into the home's landing folder and load it: `rooflake collect endpoint --url ... --model ...`."""
    from collectors.__main__ import main as run_collector

    place = Home.of(home)
    place.prepare()
    code = run_collector([name, "--landing", str(place.landing), *context.args])
    if code:
        raise typer.Exit(code)
    load(home)


@app.command()
def refresh(
    plan: Annotated[str, typer.Argument(help="A plan: a TOML file, or the name of one in etl/plans.")] = "starter",
    home: HomeOption = None,
) -> None:
    """Run a plan through the Prefect flow `etl.flows.refresh`: collect, land, load, twin, train."""
    from etl import plans

    plans.load(plan)
    _run_flow(plan, Home.of(home))


@app.command()
def train(home: HomeOption = None) -> None:
    """Train the predictors on the measured rows of the lake and store them with their scores."""
    from etl import training

    with open_store(Home.of(home)) as store:
        for line in training.train(store):
            stderr.print(line)


@app.command()
def predict(
    llm: Annotated[str, typer.Option(help="LLM id or Hugging Face name.")],
    hardware: Annotated[str | None, typer.Option(help="Device id; default: the one measured most.")] = None,
    phase: Annotated[str, typer.Option(help="forward, prefill or decode.")] = "prefill",
    batch_size: Annotated[int, typer.Option(min=1, help="Sequences.")] = 1,
    tokens: Annotated[int, typer.Option(min=1, help="Input tokens; for decode, tokens attended to.")] = 512,
    dtype: Annotated[str, typer.Option(help="dtype of weights, activations and KV cache.")] = "fp32",
    attention: Annotated[str, typer.Option(help="eager, sdpa or flash.")] = "sdpa",
    home: HomeOption = None,
    format: Annotated[Format, typer.Option("--format", "-f", help="Output format.")] = Format.table,
) -> None:
    """Predict latency and peak memory of one configuration, with an interval, beside its analytical bound."""
    from etl import output as writers
    from etl import training

    config = {
        "llm_id": llm,
        "hardware_id": hardware,
        "num_devices": 1,
        "phase": phase,
        "batch_size": batch_size,
        ("context_tokens" if phase == "decode" else "input_tokens"): tokens,
        "weight_dtype": dtype,
        "activation_dtype": dtype,
        "kv_dtype": dtype,
        "attention": attention,
    }
    with open_store(Home.of(home), read_only=True) as store:
        rows, notes = training.what_if(store, config)
    writers.write(rows, format.value, None)
    for note in notes:
        stderr.print(note, soft_wrap=True)


@app.command()
def dashboard(
    home: HomeOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 shows it to the network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8050,
) -> None:
    """Serve the dashboard (a production server, not Flask's)."""
    raise typer.Exit(_serve(Home.of(home), host, port))


@app.command()
def demo(
    home: HomeOption = None,
    serve: Annotated[bool, typer.Option("--serve/--no-serve", help="Serve the dashboard after the load.")] = True,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8050,
    plan: Annotated[str, typer.Option(help="The plan to run.")] = "starter",
) -> None:
    """Collect for real on this machine, load the lakehouse, train the predictors, and serve the dashboard."""
    refresh(plan, home)
    place = Home.of(home)
    with open_store(place, read_only=True) as store:
        from etl import output as writers

        writers.status(store)
    if serve:
        raise typer.Exit(_serve(place, host, port))


def _run_flow(plan: str, home: Home) -> None:
    """Start the flow in this process, with progress on stderr. Prefect's own server is started (and stopped) by Prefect."""
    from etl import settings

    settings.quiet_prefect()
    from etl.flows import refresh as flow

    try:
        flow(plan=plan, home=str(home.path))
    except RuntimeError as error:
        _fail(str(error))


def _serve(home: Home, host: str, port: int) -> int:
    """The dashboard is another room: it runs as its own process."""
    if not home.exists:
        with open_store(home, read_only=True):  # raises the sentence that says what to do
            pass
    command = [sys.executable, "-m", "dashboard", "--home", str(home.path), "--host", host, "--port", str(port)]
    try:
        return subprocess.run(command, check=False).returncode
    except KeyboardInterrupt:
        return 0


def _fail(message: str) -> NoReturn:
    stderr.print(message, style="red", soft_wrap=True)
    raise typer.Exit(2)


def main() -> None:
    """Console script: expected failures become a sentence and exit code 2."""
    try:
        app()
    except (StoreError, LookupError, ValueError, OSError) as error:
        stderr.print(
            str(error.args[0] if isinstance(error, KeyError) else error), style="red", soft_wrap=True, markup=False
        )
        sys.exit(2)


if __name__ == "__main__":
    main()
