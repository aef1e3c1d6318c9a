"""The form that asks an endpoint, with progress, cancel, the answer and the link to the stored run."""

from __future__ import annotations

from typing import Any

import dash_mantine_components as dmc
import flask
from dash import Dash, Input, Output, State, dcc, html, no_update

from dashboard import asking, served
from dashboard import components as c
from dashboard.data import Lake
from warehouse.store import StoreError

FIELDS = ("url", "model", "provider", "prompt", "output_tokens", "key_variable")
TICK_MS = 500
MOST_LINES = 8
"""Lines of narration that are shown."""


def card(lake: Lake) -> c.Component:
    """The form; where the dashboard is open to a network, a sentence in its place."""
    if lake.desk is None:
        body: c.Component = c.nothing(
            "Prompts are sent only from a dashboard that listens on loopback (--host 127.0.0.1): whoever reaches it can make it ask.",
            'rooflake collect endpoint --url http://127.0.0.1:8000/v1 --model NAME --load single --prompt "..."',
        )
        return c.card("Ask an endpoint", body, name="ask")
    wide = {"base": "100%", "xs": 300}
    form = html.Div(
        [
            dmc.TextInput(id="ask-url", label="URL", placeholder="http://127.0.0.1:8000/v1", w=wide, size="md"),
            dmc.TextInput(id="ask-model", label="Model", placeholder="name the server knows", w=wide, size="md"),
            dmc.Select(id="ask-provider", label="Provider", data=list(asking.PROVIDERS), value=asking.PROVIDERS[0], allowDeselect=False, w=150, size="md"),
            dmc.NumberInput(id="ask-output_tokens", label="Most tokens", value=64, min=1, max=asking.MOST_TOKENS, w=130, size="md", hideControls=True),
            dmc.TextInput(id="ask-key_variable", label="Variable with the key", placeholder="the provider's own", w=220, size="md"),
            dmc.Textarea(id="ask-prompt", label="Prompt", autosize=True, minRows=2, maxRows=10, className="rl-form-wide", size="md"),
            dmc.Button("Ask", id="ask-send", n_clicks=0, size="md", className="rl-touch"),
            dmc.Button("Cancel", id="ask-cancel", n_clicks=0, size="md", variant="default", disabled=True, className="rl-touch"),
        ],
        className="rl-form",
    )  # fmt: skip
    return c.card(
        "Ask an endpoint", form, html.Div(id="ask-state", className="rl-asked", **{"aria-live": "polite"}), dcc.Store(id="ask-job"),
        dcc.Interval(id="ask-tick", interval=TICK_MS, disabled=True),
        about="One prompt, sent by the endpoint collector on this machine and stored as a run. A key is read from the environment variable named, never typed.",
        name="ask",
    )  # fmt: skip


def register(app: Dash, lake: Lake) -> None:
    desk = lake.desk
    if desk is None:
        return

    @app.callback(
        Output("ask-job", "data"),
        Output("ask-state", "children"),
        Output("ask-tick", "disabled"),
        Output("ask-cancel", "disabled"),
        Input("ask-send", "n_clicks"),
        {name: State(f"ask-{name}", "value") for name in FIELDS},
        prevent_initial_call=True,
    )
    def send(clicks: int, given: dict[str, Any]) -> tuple[Any, ...]:
        """Start to ask; a sentence where that cannot be."""
        if not clicks:
            return no_update, no_update, no_update, no_update
        try:
            _require_loopback()
            job_id = desk.ask(question(given))
        except StoreError as error:
            return None, html.P(str(error), className="rl-warn"), True, True
        return job_id, html.P("Asking.", className="rl-quieter"), False, False

    @app.callback(
        Output("ask-state", "children", allow_duplicate=True),
        Output("ask-tick", "disabled", allow_duplicate=True),
        Output("ask-cancel", "disabled", allow_duplicate=True),
        Input("ask-tick", "n_intervals"),
        State("ask-job", "data"),
        prevent_initial_call=True,
    )
    def tick(_: int, job_id: str | None) -> tuple[Any, ...]:
        job = desk.job(job_id) if job_id else None
        if job is None:
            return no_update, True, True
        return state(job), job.is_over, job.is_over

    @app.callback(
        Output("ask-cancel", "n_clicks"),
        Input("ask-cancel", "n_clicks"),
        State("ask-job", "data"),
        prevent_initial_call=True,
    )
    def stop(clicks: int, job_id: str | None) -> Any:
        if clicks and job_id:
            _require_loopback()
            desk.cancel(job_id)
        return no_update


def question(given: dict[str, Any]) -> asking.Question:
    """What the form says. Raises StoreError for a number that is none."""
    tokens = given["output_tokens"]
    if not isinstance(tokens, int):
        raise StoreError(f"{tokens!r} tokens cannot be asked for: give a whole number.")
    words = {name: (given[name] or "").strip() for name in ("url", "model", "provider", "key_variable")}
    return asking.Question(**words, prompt=given["prompt"] or "", output_tokens=tokens)


def state(job: asking.Job) -> list[c.Component]:
    """What is to be seen of a job: how far it is, what was answered, where it is stored, what went wrong."""
    told = {
        "asking": "Asking the endpoint.", "loading": "Answered. The run is being loaded.", "done": "Answered, and stored as a run.",
        "failed": "That did not work." + ("" if job.run_id is None else " The failure is stored as a run."),
        "cancelled": "Cancelled.",
    }[job.state]  # fmt: skip
    parts: list[c.Component] = [
        html.P([dmc.Loader(size="xs") if not job.is_over else None, f" {told} "], className="rl-lead")
    ]
    if job.answer is not None:
        parts += served.exchange(job.answer)
    if job.run_id is not None:
        parts.append(dcc.Link("The stored run", href=c.href("run", run_id=job.run_id), className="rl-button"))
    if job.lines and job.run_id is None:
        parts.append(html.Pre("\n".join(job.lines[-MOST_LINES:]), className="rl-said"))
    return parts


def _require_loopback() -> None:
    """Raises StoreError where the browser reached this server under another name than loopback's."""
    if not asking.is_loopback(flask.request.host):
        raise StoreError(f"Prompts are sent for loopback alone, and this page was asked for as '{flask.request.host}'.")
