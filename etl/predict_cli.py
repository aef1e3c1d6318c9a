"""`rooflake predict`: one configuration or thousands, questions asked backwards, forecasts, and which predictor answers.

`rooflake predict MODEL ...` is `rooflake predict answer MODEL ...`: a first word that is no command is a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from etl.options import Format, FormatOption, HomeOption, Lists, OutputOption, existing, exit_if_refused, say

if TYPE_CHECKING:
    from models.learned.answering import Known
    from warehouse.catalog.llm import Llm

DEFAULT = "answer"


class Asking(TyperGroup):
    """A group whose default command takes every first word that is no command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        asks_itself = not args or args[0] in self.commands or args[0] in ("--help", "-h")
        return super().parse_args(ctx, args if asks_itself else [DEFAULT, *args])


app = typer.Typer(
    cls=Asking,
    no_args_is_help=True,
    help="What nobody measured: `rooflake predict MODEL --hardware ID...` predicts with an interval; the commands ask further.",
)

ModelArgument = Annotated[str | None, typer.Argument(help="LLM id or Hugging Face name.", show_default=False)]
LlmOption = Annotated[str | None, typer.Option("--llm", help="The same as MODEL.", show_default=False)]
DevicesOption = Annotated[
    list[str] | None,
    typer.Option("--hardware", help="Device ids; default: the one measured most.", metavar="ID..."),
]
PhaseOption = Annotated[
    list[str] | None,
    typer.Option(
        help="forward, prefill, decode, generate, serve, pretrain_step, finetune_step; default prefill, of an encoder forward.",
        metavar="PHASE...",
    ),
]
BatchOption = Annotated[
    list[int] | None,
    typer.Option("--batch", "--batch-size", help="Sequences; several are compared.", metavar="N...", min=1),
]
TokensOption = Annotated[int, typer.Option(min=1, help="Prompt tokens; of a decode step, tokens attended to.")]
OutputTokensOption = Annotated[
    int | None,
    typer.Option(min=1, help="Tokens generated; of an encoder-decoder, its decoder's in forward and decode."),
]
ConcurrencyOption = Annotated[int | None, typer.Option(min=1, help="Requests in flight (phase serve).")]
RateOption = Annotated[
    float | None, typer.Option(help="Requests offered a second (phase serve), in place of --concurrency.")
]
DtypeOption = Annotated[
    str | None,
    typer.Option(help="Of weights, activations and KV: fp16, w4a16, fp8/bf16/fp8; default: as usual on the device."),
]
TensorOption = Annotated[int, typer.Option("--tensor-parallel", min=1, help="Devices that share every layer.")]
PipelineOption = Annotated[int, typer.Option("--pipeline-parallel", min=1, help="Stages of layers.")]
FrameworkOption = Annotated[str | None, typer.Option(help="pytorch, vllm, ...; default: as usual on the device.")]
ExecutionOption = Annotated[str | None, typer.Option(help="eager, compiled, graph or engine; default: as usual.")]
AttentionOption = Annotated[str | None, typer.Option(help="eager, sdpa, flash or paged; default: as usual.")]
LatencyLimit = Annotated[float | None, typer.Option("--latency-ms", help="Longest time of one execution.")]
TtftLimit = Annotated[float | None, typer.Option("--slo-ttft-ms", help="Longest time to the first token.")]
TpotLimit = Annotated[float | None, typer.Option("--slo-tpot-ms", help="Longest time per further token.")]
RateLimit = Annotated[float | None, typer.Option("--tokens-per-s", help="Fewest output tokens a second.")]


@app.command(DEFAULT, cls=Lists)
def answer(
    model: ModelArgument = None,
    llm: LlmOption = None,
    hardware: DevicesOption = None,
    phase: PhaseOption = None,
    batch: BatchOption = None,
    tokens: TokensOption = 512,
    output_tokens: OutputTokensOption = None,
    concurrency: ConcurrencyOption = None,
    rate: RateOption = None,
    dtype: DtypeOption = None,
    tensor_parallel: TensorOption = 1,
    pipeline_parallel: PipelineOption = 1,
    framework: FrameworkOption = None,
    framework_version: Annotated[str | None, typer.Option(help="Its version.")] = None,
    execution: ExecutionOption = None,
    attention: AttentionOption = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Bound, base and corrections of every predicted latency, step by step.")
    ] = False,
    keep: Annotated[
        bool, typer.Option("--save", help="Keep the predictions in the lake (source_kind predicted).")
    ] = False,
    publish: Annotated[
        str | None,
        typer.Option(
            help="Publish them as forecasts under this note: dated, never changed, scored when measurements arrive.",
            metavar="NOTE",
        ),
    ] = None,
    home: HomeOption = None,
    format: FormatOption = Format.table,
    output: OutputOption = None,
) -> None:
    """Predict one model: latency, rates, memory and energy with a 90 % interval, beside bound and estimate.

    `rooflake predict llama-2-7b --hardware a100-sxm-80gb h100-sxm --phase decode --batch 1 8 64`. Each answer says who made it
    (a predictor with its score on what it never saw, its kernels added up, the analytical estimate) and what of it was never seen.
    """
    from etl import forecasts, predictions
    from etl import output as writers
    from models.learned import answering
    from warehouse.store import open_store

    writers.check(format.value, output)
    with open_store(existing(home), read_only=not keep and publish is None) as store:
        known = predictions.known(store, say)
        shape = _find(model, llm, known)
        devices = _devices(hardware or [predictions.measured_most(store, known.predictors)], known)
        configs = predictions.configurations(
            shape,
            devices,
            phase or [_usual_phase(shape)],
            batch or [1],
            {"tokens": tokens, "output_tokens": output_tokens},
            {
                **predictions.dtypes(dtype),
                "num_devices": tensor_parallel * pipeline_parallel,
                "tensor_parallel": tensor_parallel,
                "pipeline_parallel": pipeline_parallel,
                "concurrency": concurrency,
                "request_rate_per_s": rate,
                "framework": framework,
                "framework_version": framework_version,
                "execution": execution,
                "attention": attention,
            },
            store.query("usual_ways").to_pylist(),
            say,
        )
        answered = answering.answer(answering.configurations(configs), known)
        refusal = predictions.refusal(answered)
        if refusal is not None:
            raise ValueError(refusal)
        found = predictions.explained(answered) if explain else answered.sheet()
        people = found if explain else predictions.sheet(answered, found)
        writers.write(people if format is Format.table else found, format.value, output)
        for note in predictions.notes(answered):
            say(note)
        if keep:
            exit_if_refused(predictions.save(store, answered, say).quarantined)
        if publish is not None:
            exit_if_refused(forecasts.publish(store, answered, publish, say).quarantined)


@app.command(cls=Lists)
def catalog(
    phase: Annotated[str, typer.Option(help="One phase.")] = "prefill",
    llm: Annotated[
        list[str] | None, typer.Option(help="LLM ids; default: the whole catalogue.", metavar="ID...")
    ] = None,
    hardware: Annotated[
        list[str] | None, typer.Option("--hardware", help="Device ids; default: the whole catalogue.", metavar="ID...")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", "--batch-size", min=1, help="Sequences.")] = 1,
    tokens: TokensOption = 512,
    output_tokens: OutputTokensOption = None,
    dtype: DtypeOption = None,
    framework: FrameworkOption = None,
    execution: ExecutionOption = None,
    keep: Annotated[bool, typer.Option("--save", help="Keep them in the lake: view `predicted_runs`.")] = False,
    home: HomeOption = None,
    format: FormatOption = Format.table,
    output: OutputOption = None,
) -> None:
    """Predict every LLM of the catalogue on every device, one phase: `rooflake predict catalog --phase decode --save`.

    SQL reads what was kept: `select * from predicted_runs where llm_id = 'llama-2-7b' order by value`.
    """
    from etl import output as writers
    from etl import predictions
    from models.learned import answering
    from warehouse.store import open_store

    writers.check(format.value, output)
    with open_store(existing(home), read_only=not keep) as store:
        known = predictions.known(store, say)
        lengths = {"tokens": tokens, "output_tokens": output_tokens}
        columns = {**predictions.dtypes(dtype), "batch_size": batch, "framework": framework, "execution": execution}
        configs = predictions.catalogue(store, known, llm, hardware, phase, lengths, columns, say)
        answered = answering.answer(configs, known)
        found = answered.sheet()
        writers.write(predictions.sheet(answered, found) if format is Format.table else found, format.value, output)
        say(predictions.counted(answered))
        if keep:
            exit_if_refused(predictions.save(store, answered, say).quarantined)


@app.command(cls=Lists)
def cheapest(
    model: Annotated[str, typer.Argument(help="LLM id or Hugging Face name.")],
    hardware: Annotated[
        list[str] | None,
        typer.Option("--hardware", help="Device ids; default: every device with a price.", metavar="ID..."),
    ] = None,
    phase: Annotated[str, typer.Option(help="What is done; serve under a load.")] = "generate",
    batch: Annotated[int, typer.Option("--batch", "--batch-size", min=1, help="Sequences.")] = 1,
    tokens: TokensOption = 512,
    output_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens generated; of generate and serve 128.")
    ] = None,
    concurrency: ConcurrencyOption = None,
    latency_ms: LatencyLimit = None,
    slo_ttft_ms: TtftLimit = None,
    slo_tpot_ms: TpotLimit = None,
    tokens_per_s: RateLimit = None,
    dtype: DtypeOption = None,
    framework: FrameworkOption = None,
    execution: ExecutionOption = None,
    max_devices: Annotated[int, typer.Option(min=1, help="Devices of one type there are.")] = 8,
    home: HomeOption = None,
    format: FormatOption = Format.table,
    output: OutputOption = None,
) -> None:
    """The cheapest device, and how many of it, that keeps every limit with 95 % confidence.

    `rooflake predict cheapest llama-2-7b --latency-ms 8000 --batch 8`. A limit is kept where the pessimistic end of the interval
    keeps it, and where the memory's safe end fits.
    """
    from etl import output as writers
    from etl import predictions
    from models.learned import inverse
    from warehouse.store import open_store

    writers.check(format.value, output)
    limits = _limits(latency_ms, slo_ttft_ms, slo_tpot_ms, tokens_per_s)
    with open_store(existing(home), read_only=True) as store:
        known = predictions.known(store, say)
        shape = _find(model, None, known)
        devices = _devices(hardware, known) if hardware else predictions.priced(known)
        generated = 128 if output_tokens is None and phase in ("generate", "serve") else output_tokens
        columns = {
            **predictions.dtypes(dtype),
            "concurrency": concurrency,
            "framework": framework,
            "execution": execution,
        }
        (work,) = predictions.configurations(
            shape, [""], [phase], [batch], {"tokens": tokens, "output_tokens": generated}, columns,
            store.query("usual_ways").to_pylist(), say,
        )  # fmt: skip
    work = {name: value for name, value in work.items() if name not in ("llm_id", "hardware_id")}
    rows = inverse.cheapest(shape, devices, work, limits, known, max_devices=max_devices)
    writers.write(predictions.verdicts(rows, limits) if format is Format.table else rows, format.value, output)
    say(predictions.cheapest_said(rows, limits))


@app.command("max-batch")
def max_batch(
    model: Annotated[str, typer.Argument(help="LLM id or Hugging Face name.")],
    hardware: Annotated[str, typer.Option("--hardware", help="Device id.", metavar="ID")],
    phase: Annotated[str, typer.Option(help="forward, prefill, decode or generate.")] = "decode",
    tokens: TokensOption = 512,
    output_tokens: OutputTokensOption = None,
    latency_ms: LatencyLimit = None,
    tokens_per_s: RateLimit = None,
    dtype: DtypeOption = None,
    tensor_parallel: TensorOption = 1,
    framework: FrameworkOption = None,
    execution: ExecutionOption = None,
    home: HomeOption = None,
    format: FormatOption = Format.table,
    output: OutputOption = None,
) -> None:
    """The largest batch whose memory fits and whose time stays under a limit, each with 95 % confidence.

    `rooflake predict max-batch llama-2-7b --hardware a100-sxm-80gb --latency-ms 50`.
    """
    from etl import output as writers
    from etl import predictions
    from models.learned import inverse
    from warehouse.store import open_store

    writers.check(format.value, output)
    limits = _limits(latency_ms, None, None, tokens_per_s)
    with open_store(existing(home), read_only=True) as store:
        known = predictions.known(store, say)
        shape = _find(model, None, known)
        columns = {
            **predictions.dtypes(dtype),
            "num_devices": tensor_parallel,
            "tensor_parallel": tensor_parallel,
            "framework": framework,
            "execution": execution,
        }
        (config,) = predictions.configurations(
            shape, _devices([hardware], known), [phase], [1], {"tokens": tokens, "output_tokens": output_tokens}, columns,
            store.query("usual_ways").to_pylist(), say,
        )  # fmt: skip
    rows = inverse.largest_batch(config, limits, known)
    writers.write(predictions.verdicts(rows, limits) if format is Format.table else rows, format.value, output)
    say(predictions.largest_said(rows))


@app.command(cls=Lists)
def evaluate(
    targets: Annotated[list[str] | None, typer.Argument(help="Targets; default: all.", metavar="[TARGET]...")] = None,
    split: Annotated[
        list[str] | None,
        typer.Option(
            help="leave_model_out, leave_family_out, leave_device_out, leave_generation_out, leave_backend_out, leave_stack_out, "
            "leave_shape_out, beyond_size, random; default: the target's.",
            metavar="SPLIT...",
        ),
    ] = None,
    contender: Annotated[
        list[str] | None,
        typer.Option(help="A predictor of your own with the methods fit and predict.", metavar="MODULE:CLASS..."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most rows of a target, drawn by content.")] = None,
    folds: Annotated[bool, typer.Option("--folds", help="Every held-out part too, not only all together.")] = False,
    keep: Annotated[bool, typer.Option("--save", help="Keep the scores in the lake.")] = False,
    home: HomeOption = None,
    format: FormatOption = Format.table,
    output: OutputOption = None,
) -> None:
    """Score each target's method on rows it never saw, beside the bound, the estimate, a random forest and the nearest neighbour.

    `rooflake predict evaluate latency --split leave_model_out --contender my_package.mine:Mine`.
    """
    from etl import output as writers
    from etl import predictions, training
    from warehouse.store import open_store

    writers.check(format.value, output)
    with open_store(existing(home), read_only=not keep) as store:
        found = training.evaluate(store, say, targets or None, split, contender, limit=limit, is_stored=keep)
    if found.num_rows == 0:
        raise ValueError("Nothing was scored: no target has rows enough. The lines above say what each lacks.")
    found = found if folds else predictions.pooled(found)
    writers.write(predictions.scored(found) if format is Format.table else found, format.value, output)


@app.command()
def rollback(
    target: Annotated[str, typer.Argument(help="What is predicted: latency, memory_allocated ...")],
    home: HomeOption = None,
) -> None:
    """Let the predictor answer again that the newest one of a target replaced."""
    from etl import training
    from warehouse.store import open_store

    with open_store(existing(home)) as store:
        say(training.rollback(store, target))


@app.command()
def forecasts(home: HomeOption = None, format: FormatOption = Format.table, output: OutputOption = None) -> None:
    """Published predictions, and how far off each was once measured."""
    from etl import output as writers
    from etl import predictions
    from warehouse.store import open_store

    writers.check(format.value, output)
    with open_store(existing(home), read_only=True) as store:
        found = store.query("forecast_list")
    if found.num_rows == 0:
        say("No forecast is published yet: `rooflake predict MODEL ... --publish NOTE`.")
        return
    writers.write(predictions.forecast_sheet(found) if format is Format.table else found, format.value, output)


@app.command()
def promoted(home: HomeOption = None, format: FormatOption = Format.table, output: OutputOption = None) -> None:
    """Which predictor answers for each target, since when, and why."""
    from etl import output as writers
    from warehouse.store import open_store

    writers.check(format.value, output)
    with open_store(existing(home), read_only=True) as store:
        found = store.query("promoted_predictors")
    if found.num_rows == 0:
        say("No predictor is trained yet: `rooflake train`.")
        return
    short = found.select(["target", "predictor_id", "method", "num_rows", "promoted_at", "reason"])
    writers.write(short if format is Format.table else found, format.value, output)


def _find(model: str | None, llm: str | None, known: Known) -> Llm:
    """The LLM asked for, by MODEL or --llm."""
    from warehouse import catalog as entries

    if (model is None) == (llm is None):
        raise ValueError("name one model: `rooflake predict MODEL`. `rooflake predict --help` lists the commands.")
    name = model if model is not None else llm
    brought = {one.llm_id: one for one in known.llms}
    return brought[str(name)] if name in brought else entries.find_llm(str(name))


def _devices(names: Sequence[str], known: Known) -> list[str]:
    """Ids of devices by id or alias. Raises UnknownEntryError."""
    from models.analytical.devices import device_rows
    from warehouse import catalog as entries

    own = device_rows(known.hardware)
    return [name if name in own else entries.find_hardware(name).hardware_id for name in dict.fromkeys(names)]


def _usual_phase(llm: Llm) -> str:
    return "forward" if llm.architecture == "encoder" else "prefill"


def _limits(
    latency_ms: float | None, ttft_ms: float | None, tpot_ms: float | None, tokens_per_s: float | None
) -> dict[str, float]:
    """Limits in SI by metric."""
    given = {"latency_s": latency_ms, "ttft_s": ttft_ms, "tpot_s": tpot_ms}
    found = {name: value / 1e3 for name, value in given.items() if value is not None}
    return found | ({} if tokens_per_s is None else {"output_tokens_per_s": tokens_per_s})
