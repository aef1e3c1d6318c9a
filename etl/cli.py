"""The `rooflake` command line. Each command opens, calls a library, and turns its exceptions into a sentence.

stdout is data, stderr is narration. Heavy libraries are imported by the command that needs them.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from etl import predict_cli
from etl.options import (
    Format,
    FormatOption,
    HomeOption,
    Lists,
    OutputOption,
    existing,
    exit_if_refused,
    fail,
    say,
)

if TYPE_CHECKING:
    from warehouse.store import Home, Store

app = typer.Typer(
    name="rooflake",
    help="Where the field looks up how fast an LLM runs, on what, why, and what it would cost elsewhere.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(predict_cli.app, name="predict")


def _print_version(is_asked: bool) -> None:
    if is_asked:
        from importlib import metadata

        typer.echo(f"rooflake {metadata.version('rooflake')}")
        raise typer.Exit


@app.callback()
def top(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """What stands before every command."""


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
    from warehouse.store import Home, open_for_people

    writers.check(format.value, output)
    with open_for_people(Home.of(home), limit=limit) as run:
        rows = run(query)
    writers.write(rows, format.value, output)
    if rows.num_rows == limit:
        say(f"Stopped at {limit} rows. Ask for more with --limit.")


@app.command()
def load(home: HomeOption = None) -> None:
    """Load every landing file exactly once, add the analytical bound of what came in, and check it.

    Files off the contract go to quarantine with the reason; what the checks find wrong in rows are findings (`rooflake lint`).
    """
    from etl import lint, twins
    from warehouse.store import Home, open_store

    place = Home.of(home)
    if next(place.landing.glob("*/*.parquet"), None) is None:
        place = existing(home)
    with open_store(place) as store:
        loaded = store.load()
        say(str(loaded))
        refused = loaded.quarantined
        if any(loaded.new_rows.values()):
            refused = refused | twins.add(store, say).quarantined
        refused = refused | lint.add(store, say).quarantined
    exit_if_refused(refused)


@app.command("lint")
def lint_(
    source: Annotated[
        str, typer.Argument(help="A source id, what stands before the / in it, or a file that was imported.")
    ],
    severity: Annotated[
        str | None,
        typer.Option(help="fault (cannot be right as printed) or doubt (needs an explanation); default: both."),
    ] = None,
    past: Annotated[bool, typer.Option("--past", help="Findings too that no longer hold.")] = False,
    home: HomeOption = None,
    format: Annotated[Format, typer.Option("--format", "-f", help="Output format.")] = Format.table,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write; parquet needs one.")] = None,
) -> None:
    """Print what the checks found in a source's rows: `rooflake lint zhang-2023-dissecting`. They run at every load.

    Physics (points above their roof, more than the peak, weights that do not fit) and what figures say of one another (sums,
    shares, rates and latencies, percentiles, copies, lost decimal points).
    """
    from etl import lint
    from etl import output as writers
    from warehouse.store import open_store

    writers.check(format.value, output)
    if severity not in (None, "fault", "doubt"):
        raise ValueError(f"'{severity}' is not a severity. Known: fault, doubt.")
    with open_store(existing(home), read_only=True) as store:
        found = lint.find(store, source, severity=severity, with_past=past)
    if format is Format.table:
        found = found.select(["severity", "check_name", "source_id", "sentence"])
    if found.num_rows or format is not Format.table:
        writers.write(found, format.value, output)
    else:
        say(f"Nothing found in {source}.")


@app.command()
def status(home: HomeOption = None) -> None:
    """What is in the lakehouse: rows by table and kind, snapshot, last load, files waiting and in quarantine."""
    from etl import output as writers
    from warehouse.store import Home, open_store

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
    from warehouse.store import Home, open_store

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
        if name in machine.MEASURING:
            options |= machine.known(store, name, options["device"]) | {"skip": frozenset()}
        elif name.startswith("from_"):
            options["known_hardware"] = _known_hardware(store)
    collected = collector.collect(place.landing, report=say, **options)
    failures = "without an answer" if name == "roofline" else "failures"
    say(f"{collected.num_runs} runs landed, {collected.num_failed} of them {failures}.")
    load(home)
    if collected.is_failure:
        raise typer.Exit(1)


@app.command("import")
def import_(
    files: Annotated[list[Path], typer.Argument(help="Result files of other tools, plain or .gz.", metavar="FILE...")],
    tool: Annotated[str | None, typer.Option(help="Tool that wrote them; default: recognised by content.")] = None,
    hardware: Annotated[str | None, typer.Option(help="Device measured on, where the files do not name it.")] = None,
    model: Annotated[str | None, typer.Option(help="LLM measured, where the files do not name it.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other column, e.g. tensor_parallel=8.", metavar="COLUMN=VALUE"),
    ] = None,
    mapping: Annotated[Path | None, typer.Option(help="TOML that says which column of a plain CSV is what.")] = None,
    home: HomeOption = None,
) -> None:
    """Import result files of other tools and load them: `rooflake import results.json --hardware h100-sxm`."""
    from collectors import _importing
    from warehouse.store import Home, open_store

    place = Home.of(home)
    with open_store(place) as store:
        known = _known_hardware(store)
    refused = None
    try:
        _importing.collect(
            place.landing, report=say, files=files, tool=tool, hardware_id=hardware, llm_id=model, settings=settings,
            mapping=mapping, known_hardware=known,
        )  # fmt: skip
    except _importing.Unreadable as error:
        refused = str(error)
    if refused is None or next(place.landing.glob("*/*.parquet"), None) is not None:
        load(home)
    if refused is not None:
        fail(refused)


@app.command()
def forget(
    source: Annotated[
        str,
        typer.Argument(
            help="Source of imported runs, e.g. vllm/5f0c...; `rooflake lint`, the Run page and SQL name it."
        ),
    ],
    home: HomeOption = None,
) -> None:
    """Take an imported file out of the lake, to import it again with other words. Earlier snapshots keep it."""
    from etl import lint
    from warehouse.store import open_store

    with open_store(existing(home)) as store:
        taken = store.forget(source)
        lint.add(store, say)
    say(f"{source}: {', '.join(f'{rows} {name}' for name, rows in taken.items())} taken out.")


def _known_hardware(store: Store) -> list[str]:
    """Ids of the lake's devices, those included that no catalogue holds."""
    rows = store.sql("SELECT hardware_id FROM hardware WHERE measured_of IS NULL")
    return list(rows.column("hardware_id").to_pylist())


class Layout(StrEnum):
    """Files of other tools that `export` writes."""

    llmd_report = "llmd-report"
    vidur = "vidur"


@app.command()
def export(
    layout: Annotated[
        Layout,
        typer.Argument(help="llmd-report: served loads as llm-d Benchmark Reports 0.2.1; vidur: layer profiles."),
    ],
    run_ids: Annotated[
        list[str] | None, typer.Argument(help="Runs; default: all that the layout can hold.", metavar="[RUN_ID]...")
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="Folder to write into; default: exports/ of the home.")] = None,
    home: HomeOption = None,
) -> None:
    """Write runs as files of another tool: `rooflake export llmd-report`."""
    from etl import exports
    from warehouse.store import open_store

    place = existing(home)
    target = place.path / "exports" / layout.value if folder is None else folder
    with open_store(place, read_only=True) as store:
        for path in exports.LAYOUTS[layout.value](store, run_ids, target):
            typer.echo(path)


@app.command()
def refresh(
    plan: Annotated[str, typer.Argument(help="A plan: a TOML file, or the name of one in etl/plans.")] = "starter",
    home: HomeOption = None,
) -> None:
    """Run a plan through the Prefect flow `etl.flows.refresh`: collect, land, load, twin, train."""
    from warehouse.store import Home

    failures = _run_flow(plan, Home.of(home))
    if failures is not None:
        fail(failures)


@app.command()
def train(home: HomeOption = None) -> None:
    """Train the predictors on the measured rows of the lake and store them with their scores."""
    from etl import training, twins
    from warehouse.store import open_store

    with open_store(existing(home)) as store:
        refused = twins.add(store, say).quarantined
        refused = refused | training.train(store, say).quarantined
    exit_if_refused(refused)


HardwareOption = Annotated[
    list[str],
    typer.Option("--hardware", help="Device ids of the catalogue; several are compared side by side.", metavar="ID..."),
]
ConfigJsonOption = Annotated[
    str | None,
    typer.Option(
        help="A Hugging Face config.json in place of the catalogue's entry: a file, or - for pasted text.",
        metavar="FILE|-",
    ),
]
CatalogOption = Annotated[
    Path | None,
    typer.Option(
        "--catalog", help="Folder of your own hardware.toml, llms.toml, prices.toml, which extend the catalogue."
    ),
]


@app.command(cls=Lists)
def analyze(
    model: Annotated[str, typer.Argument(help="LLM id or Hugging Face name; with --config-json any name.")],
    hardware: HardwareOption,
    config_json: ConfigJsonOption = None,
    phase: Annotated[
        list[str] | None,
        typer.Option(
            help="prefill, decode, generate, forward, pretrain_step, finetune_step; default: prefill and decode; of an encoder, forward.",
            metavar="PHASE...",
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Sequences of one data-parallel replica.")] = 1,
    input_tokens: Annotated[
        int | None,
        typer.Option(
            help="Prompt (or training) tokens of a sequence, without --prefix-tokens; default 1024, or what the model is made for."
        ),
    ] = None,
    output_tokens: Annotated[
        int | None, typer.Option(help="Generated tokens of a sequence; default 128, or what the model has room for.")
    ] = None,
    context_tokens: Annotated[
        int | None, typer.Option(help="Tokens one decode step attends to; default 1024, or what the model is made for.")
    ] = None,
    prefix_tokens: Annotated[
        int | None,
        typer.Option(
            help="Prompt tokens that prefill finds in the cache, beside --input-tokens: the prompt is their sum."
        ),
    ] = None,
    chunk_tokens: Annotated[int | None, typer.Option(help="Prompt tokens that prefill takes at a time.")] = None,
    dtype: Annotated[
        str, typer.Option(help="Of weights, activations and KV: fp16, w4a16, w8a8kv8, fp8/bf16/fp8.")
    ] = "fp16",
    weight_dtype: Annotated[str | None, typer.Option(help="Of weights, in place of --dtype.")] = None,
    activation_dtype: Annotated[str | None, typer.Option(help="Of activations, in place of --dtype.")] = None,
    kv_dtype: Annotated[str | None, typer.Option(help="Of the KV cache, in place of --dtype.")] = None,
    attention: Annotated[str, typer.Option(help="eager, sdpa, flash or paged.")] = "flash",
    execution: Annotated[
        str | None, typer.Option(help="How kernels are issued, for the estimate: eager, compiled, graph or engine.")
    ] = None,
    tensor_parallel: Annotated[int | None, typer.Option(help="Devices that share every layer.")] = None,
    pipeline_parallel: Annotated[int | None, typer.Option(help="Stages of layers.")] = None,
    data_parallel: Annotated[int | None, typer.Option(help="Replicas.")] = None,
    expert_parallel: Annotated[int | None, typer.Option(help="Devices that experts are spread over.")] = None,
    num_micro_batches: Annotated[int | None, typer.Option(help="Parts that a replica's batch is cut into.")] = None,
    interconnect: Annotated[str | None, typer.Option(help="nvlink or pcie; default: the device's fastest.")] = None,
    optimizations: Annotated[
        list[str] | None, typer.Option(help="zero1 zero2 zero3 offload recompute lora qlora ...", metavar="NAME...")
    ] = None,
    optimizer_dtype: Annotated[str | None, typer.Option(help="Of one optimizer state.")] = None,
    gradient_dtype: Annotated[str | None, typer.Option(help="Of gradients.")] = None,
    lora_rank: Annotated[int | None, typer.Option(help="Rank of LoRA adapters.")] = None,
    ops: Annotated[bool, typer.Option("--ops", help="Show every op, by its share of the time.")] = False,
    stages: Annotated[
        int | None, typer.Option(help="Cut the layers into so many pipeline stages, the slowest as fast as can be.")
    ] = None,
    catalog_folder: CatalogOption = None,
    home: Annotated[
        Path | None,
        typer.Option("--home", help="Lakehouse whose devices and calibrated constants count too.", show_default=False),
    ] = None,
    format: FormatOption = Format.table,
    output: OutputOption = None,
) -> None:
    """Answer one question from arithmetic alone: `rooflake analyze llama-2-7b --hardware a6000 h100-sxm`.

    Time (bound, estimate, which side binds), tokens/s, memory and what fits, energy, cost, and what faster memory, compute
    or links would bring. Needs no lakehouse.
    """
    from etl import analyze as question
    from etl import output as writers

    writers.check(format.value, output)
    _extend(catalog_folder)
    known = question.known(home)
    llm = question.find(model, config_json)
    lengths = {"input_tokens": input_tokens, "output_tokens": output_tokens, "context_tokens": context_tokens}
    columns = {
        "batch_size": batch_size,
        "prefix_tokens": prefix_tokens,
        "chunk_tokens": chunk_tokens,
        "weight_dtype": weight_dtype,
        "activation_dtype": activation_dtype,
        "kv_dtype": kv_dtype,
        "attention": attention,
        "execution": execution,
        "tensor_parallel": tensor_parallel,
        "pipeline_parallel": pipeline_parallel,
        "data_parallel": data_parallel,
        "expert_parallel": expert_parallel,
        "num_micro_batches": num_micro_batches,
        "interconnect": interconnect,
        "optimizations": sorted(optimizations) if optimizations else None,
        "optimizer_dtype": optimizer_dtype,
        "gradient_dtype": gradient_dtype,
        "lora_rank": lora_rank,
    }
    configs = question.configurations(llm, hardware, phase or (), dtype, lengths, columns, known)
    totals, op_rows = question.answer(configs, llm, known)
    cuts = [] if stages is None else [question.stage_sheet(totals, op_rows, llm, stages)]
    op_rows = question.op_table(totals, op_rows) if ops else op_rows
    if format is Format.table:
        sheets = [*question.sheets(totals, known), *([question.op_sheet(op_rows)] if ops else []), *cuts]
        writers.write_tables(sheets, output)
    else:
        writers.write(cuts[0] if cuts else op_rows if ops else totals, format.value, output)
    for note in (*question.notes(totals), *question.without_effect(phase or (), llm, lengths | columns)):
        say(note)


@app.command(cls=Lists)
def search(
    model: Annotated[str, typer.Argument(help="LLM id or Hugging Face name; with --config-json any name.")],
    hardware: HardwareOption,
    config_json: ConfigJsonOption = None,
    input_tokens: Annotated[int, typer.Option(help="Prompt tokens of a request.")] = 1024,
    output_tokens: Annotated[int, typer.Option(help="Generated tokens of a request.")] = 256,
    slo_ttft_ms: Annotated[float | None, typer.Option(help="Longest time to the first token.")] = None,
    slo_tpot_ms: Annotated[float | None, typer.Option(help="Longest time per further token.")] = None,
    rate: Annotated[float | None, typer.Option(help="Requests/s to serve.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Requests to keep in flight, in place of --rate.")] = None,
    dtypes: Annotated[
        list[str] | None,
        typer.Option(help="Of weights, activations and KV: fp16 w4a16 fp8 ...; default fp16.", metavar="DTYPES..."),
    ] = None,
    max_devices: Annotated[int, typer.Option(help="Devices of one type there are.")] = 8,
    interconnect: Annotated[str | None, typer.Option(help="nvlink or pcie; default: the device's fastest.")] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Every configuration, with the reason where it is not feasible.")
    ] = False,
    catalog_folder: CatalogOption = None,
    landing: Annotated[
        Path | None, typer.Option(help="Also write the rows as Parquet into this landing folder.")
    ] = None,
    home: Annotated[
        Path | None,
        typer.Option(
            "--home",
            help="Lakehouse to load the rows into; its devices and calibrated constants count too.",
            show_default=False,
        ),
    ] = None,
    format: FormatOption = Format.table,
    output: OutputOption = None,
) -> None:
    """Find what serves best within limits: the Pareto fronts of throughput and of cost against speed for a user.

    `rooflake search llama-3.1-8b --hardware a100-sxm-80gb l40s --slo-ttft-ms 500 --slo-tpot-ms 30 --rate 10`. Tries every
    layout of up to --max-devices, batch and dtype; models continuous batching in its steady state. Needs no lakehouse.
    """
    from etl import analyze as question
    from etl import output as writers
    from models.analytical import search as engine
    from models.analytical.configs import check_size

    writers.check(format.value, output)
    for name, folder in (("--landing", landing), ("--home", home)):
        if folder is not None:
            writers.check_folder(name, folder)
    _extend(catalog_folder)
    question.check_amounts(
        rate=(rate, "requests/s"), slo_ttft_ms=(slo_ttft_ms, "milliseconds"), slo_tpot_ms=(slo_tpot_ms, "milliseconds")
    )
    sizes = {"input_tokens": input_tokens, "output_tokens": output_tokens, "concurrency": concurrency}
    question.check_sizes(sizes, output_tokens=2)
    check_size("--max-devices", max_devices, most=engine.MOST_DEVICES)
    if rate is not None and concurrency is not None:
        raise ValueError("--rate and --concurrency are two ways to state one load: give one.")
    goal = engine.Goal(
        input_tokens,
        output_tokens,
        slo_ttft_s=None if slo_ttft_ms is None else slo_ttft_ms / 1e3,
        slo_tpot_s=None if slo_tpot_ms is None else slo_tpot_ms / 1e3,
        request_rate_per_s=rate,
        concurrency=concurrency,
        max_devices=max_devices,
    )
    llm = question.find(model, config_json)
    known = question.known(home, may_be_new=True)
    rows = engine.search(
        llm,
        hardware,
        goal,
        dtypes=dtypes or ["fp16"],
        interconnect=interconnect,
        hardware=known.hardware,
        calibrations=known.calibrations,
    )
    shown = rows if every else question.front(rows)
    if shown.num_rows:
        writers.write(question.search_sheet(shown) if format is Format.table else shown, format.value, output)
        if landing is not None:
            question.land(shown, landing)
        if home is not None:
            from warehouse.store import Home

            question.land(shown, Home.of(home).landing)
            load(home)
    say(question.headline(rows, goal))


@app.command(cls=Lists)
def calibrate(
    home: HomeOption = None,
    source: Annotated[
        list[str] | None,
        typer.Option(
            help="Source ids whose rows count, measured or published, or what stands before a / in them; default: every measured row.",
            metavar="ID...",
        ),
    ] = None,
) -> None:
    """Fit the constants of the estimate to the measured rows of the lake and store them with the snapshot."""
    from etl import calibration
    from warehouse.store import open_store

    with open_store(existing(home)) as store:
        refused = calibration.calibrate(store, say, sources=tuple(source or ())).quarantined
    exit_if_refused(refused)


@app.command()
def dashboard(
    home: HomeOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 shows it to the network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8050,
) -> None:
    """Serve the dashboard (a production server, not Flask's)."""
    from warehouse.store import Home

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
    from warehouse.store import Home, open_store

    place = Home.of(home)
    failures = _run_flow(plan, place)
    if failures is not None:
        say(failures, style="red")
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
    existing(home.path)
    command = [sys.executable, "-m", "dashboard", "--home", str(home.path), "--host", host, "--port", str(port)]
    try:
        return subprocess.run(command, check=False).returncode
    except KeyboardInterrupt:
        return 0


def _extend(folder: Path | None) -> None:
    """Let a folder of one's own extend the catalogue."""
    from warehouse import catalog

    if folder is None:
        return
    if not folder.exists():
        raise ValueError(
            f"--catalog '{folder}' does not exist. Name a folder with hardware.toml, llms.toml or prices.toml."
        )
    catalog.extend(folder)


def _expected() -> tuple[type[Exception], ...]:
    """Failures that are an answer; the store's only where a command opened one."""
    store = sys.modules.get("warehouse.store")
    return (LookupError, ValueError, OSError) if store is None else (LookupError, ValueError, OSError, store.StoreError)


def main() -> None:
    """Console script: expected failures become a sentence and exit code 2."""
    try:
        app()
    except _expected() as error:
        say(str(error.args[0] if isinstance(error, KeyError) else error), style="red")
        sys.exit(2)


if __name__ == "__main__":
    main()
