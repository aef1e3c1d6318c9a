"""The `rooflake` command line. Each command opens, calls a library, and turns its exceptions into a sentence.

stdout is data, stderr is narration. Heavy libraries are imported by the command that needs them.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping
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
stderr = Console(stderr=True, highlight=False, markup=False)

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

    writers.check(format.value, output)
    with open_for_people(Home.of(home), limit=limit) as run:
        rows = run(query)
    writers.write(rows, format.value, output)
    if rows.num_rows == limit:
        _say(f"Stopped at {limit} rows. Ask for more with --limit.")


@app.command()
def load(home: HomeOption = None) -> None:
    """Load every landing file exactly once, and add the analytical bound of what came in.

    Files off the contract go to quarantine with the reason.
    """
    from etl import twins

    with open_store(Home.of(home)) as store:
        loaded = store.load()
        _say(str(loaded))
        refused = loaded.quarantined
        if any(loaded.new_rows.values()):
            refused = refused | twins.add(store, _say).quarantined
    _exit_if_refused(refused)


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
    """Run one collector and load what it landed: `rooflake collect endpoint --url ... --model ...`.

    `rooflake collect NAME --help` lists the collector's options.
    """
    import collectors
    from etl import machine

    if name in ("-h", "--help"):
        typer.echo(context.get_help())
        typer.echo(f"Collectors: {', '.join(collectors.names())}")
        return
    collector = collectors.find(name)
    parser = argparse.ArgumentParser(
        prog=f"rooflake collect {name}",
        description=collector.__doc__,
        epilog="--home DIR  home folder; else ROOFLAKE_HOME, else ./rooflake-data",
    )
    collector.add_arguments(parser)
    options = vars(parser.parse_args(context.args))
    place = Home.of(home)
    with open_store(place) as store:
        if name == "local_profile":
            options["hardware_row"] = machine.hardware_row(store, options["device"])
    collected = collector.collect(place.landing, report=_say, **options)
    _say(f"{collected.num_runs} runs landed, {collected.num_failed} of them failures.")
    load(home)


@app.command()
def refresh(
    plan: Annotated[str, typer.Argument(help="A plan: a TOML file, or the name of one in etl/plans.")] = "starter",
    home: HomeOption = None,
) -> None:
    """Run a plan through the Prefect flow `etl.flows.refresh`: collect, land, load, twin, train."""
    failures = _run_flow(plan, Home.of(home))
    if failures is not None:
        _fail(failures)


@app.command()
def train(home: HomeOption = None) -> None:
    """Train the predictors on the measured rows of the lake and store them with their scores."""
    from etl import training, twins

    with open_store(Home.of(home)) as store:
        refused = twins.add(store, _say).quarantined
        refused = refused | training.train(store, _say).quarantined
    _exit_if_refused(refused)


@app.command()
def predict(
    llm: Annotated[str, typer.Option(help="LLM id or Hugging Face name.")],
    hardware: Annotated[str | None, typer.Option(help="Device id; default: the one measured most.")] = None,
    phase: Annotated[str, typer.Option(help="forward, prefill, decode or generate.")] = "prefill",
    batch_size: Annotated[int, typer.Option(min=1, help="Sequences.")] = 1,
    tokens: Annotated[
        int, typer.Option(min=1, help="Input tokens; for a decoder's decode step, tokens attended to.")
    ] = 512,
    output_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens of generate; of an encoder-decoder, its decoder's in forward and decode."),
    ] = None,
    dtype: Annotated[str, typer.Option(help="dtype of weights, activations and KV cache.")] = "fp32",
    attention: Annotated[str, typer.Option(help="eager, sdpa, flash or paged.")] = "sdpa",
    home: HomeOption = None,
    format: Annotated[Format, typer.Option("--format", "-f", help="Output format.")] = Format.table,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write; parquet needs one.")] = None,
) -> None:
    """Predict latency and peak memory of one configuration, with an interval, beside its analytical bound."""
    from etl import output as writers
    from etl import training

    writers.check(format.value, output)
    config = training.configuration(
        llm,
        phase,
        hardware_id=hardware,
        batch_size=batch_size,
        tokens=tokens,
        output_tokens=output_tokens,
        dtype=dtype,
        attention=attention,
    )
    with open_store(Home.of(home), read_only=True) as store:
        rows, notes = training.what_if(store, config)
    writers.write(rows, format.value, output)
    for note in notes:
        _say(note)


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
    place = Home.of(home)
    failures = _run_flow(plan, place)
    if failures is not None:
        _say(failures, style="red")
    with open_store(place, read_only=True) as store:
        from etl import output as writers

        writers.status(store)
    if serve:
        raise typer.Exit(_serve(place, host, port))
    if failures is not None:
        raise typer.Exit(2)


def _run_flow(plan: str, home: Home) -> str | None:
    """Start the flow in this process, with progress on stderr. Returns what failed, or None where nothing did.

    Prefect's own server is started (and stopped) by Prefect. Raises ValueError for a plan that makes no sense.
    """
    from etl import plans, settings

    plans.load(plan)
    settings.quiet_prefect()
    from etl.flows import refresh as flow

    try:
        flow(plan=plan, home=str(home.path))
    except RuntimeError as error:
        return str(error)
    return None


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


def _say(line: str, style: str | None = None) -> None:
    stderr.print(line, style=style, soft_wrap=True)


def _exit_if_refused(refused: Mapping[str, str]) -> None:
    for name, reason in refused.items():
        _say(f"quarantined {name}: {reason}", style="red")
    if refused:
        raise typer.Exit(1)


def _fail(message: str) -> NoReturn:
    _say(message, style="red")
    raise typer.Exit(2)


def main() -> None:
    """Console script: expected failures become a sentence and exit code 2."""
    try:
        app()
    except (StoreError, LookupError, ValueError, OSError) as error:
        _say(str(error.args[0] if isinstance(error, KeyError) else error), style="red")
        sys.exit(2)


if __name__ == "__main__":
    main()
