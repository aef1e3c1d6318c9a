"""The Dash application: shell, explicit page registration, and the few browser functions that every page shares."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import dash
import dash_mantine_components as dmc
from dash import ALL, ClientsideFunction, Dash, Input, Output, State, dcc, html

from dashboard import api
from dashboard import components as c
from dashboard.data import Lake
from dashboard.pages import (
    compare,
    findings,
    layers,
    league,
    machine,
    overview,
    predict,
    roofline,
    run,
    serving,
    training,
)
from warehouse.store import Home

PAGES: tuple[ModuleType, ...] = (
    overview,
    compare,
    serving,
    roofline,
    layers,
    machine,
    training,
    predict,
    league,
    findings,
    run,
)
"""In the order of the menu. A page module has NAME, TITLE, ICON, layout(lake, params) and register(app, lake)."""

INDEX = """<!DOCTYPE html>
<html lang="en">
<head>
{%metas%}
<title>{%title%}</title>
<link rel="icon" type="image/svg+xml" href="/assets/logo.svg">
<script>
  (function () {
    var scheme = localStorage.getItem("rooflake-scheme") || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
    document.documentElement.setAttribute("data-mantine-color-scheme", scheme);
  })();
</script>
{%css%}
</head>
<body>
<!--[if IE]>{%favicon%}<![endif]-->
{%app_entry%}
<footer>{%config%}{%scripts%}{%renderer%}</footer>
</body>
</html>"""


def create_app(home: Home | str | Path | None = None, *, can_ask: bool = False) -> Dash:
    """The application over one lakehouse; `can_ask` lets it send prompts to endpoints. Raises StoreError where there is none."""
    lake = Lake(home, can_ask=can_ask)
    app = Dash(
        "dashboard",
        use_pages=True,
        pages_folder="",
        compress=True,
        serve_locally=True,
        suppress_callback_exceptions=True,
        title="Rooflake",
        update_title=None,
        index_string=INDEX,
        assets_folder=str(Path(__file__).parent / "assets"),
        meta_tags=[{"name": "viewport", "content": "width=device-width, initial-scale=1"}],
    )
    dash.page_registry.clear()
    for order, page in enumerate(PAGES):
        dash.register_page(
            page.__name__, path=c.href(page.NAME), name=page.TITLE, title=f"{page.TITLE} · Rooflake", order=order,
            layout=partial(_layout, page, lake), description=page.__doc__,
        )  # fmt: skip
        page.register(app, lake)
    app.layout = partial(_shell, lake)
    api.register(app.server, lake)
    _register_shell(app)
    return app


def _layout(page: ModuleType, lake: Lake, **params: Any) -> Any:
    """A page for the state in its URL; a parameter given twice counts as a list."""
    flat = {
        key: ",".join(value) if isinstance(value, list) else str(value)
        for key, value in params.items()
        if value is not None
    }
    shown = c.guarded(lambda: page.layout(lake, flat))
    return [c.unread(flat, shown), shown]


def _shell(lake: Lake) -> Any:
    links = [
        dmc.NavLink(
            id={"nav": page.NAME}, label=page.TITLE, href=c.href(page.NAME), description=page.MENU, className="rl-nav",
            leftSection=html.Span(className=f"rl-icon rl-icon-{page.NAME}", **{"aria-hidden": "true"}),
        )
        for page in PAGES
    ]  # fmt: skip
    header = dmc.Group(
        [
            dmc.Group(
                [
                    dmc.Burger(id="burger", opened=False, hiddenFrom="sm", size="sm", **{"aria-label": "Menu"}, className="rl-burger"),
                    dcc.Link([html.Img(src="/assets/logo.svg", alt="", className="rl-logo"), "Rooflake"], href="/", className="rl-brand"),
                    dmc.Text("how fast an LLM runs, on what, and why", c="dimmed", size="sm", visibleFrom="sm"),
                ],
                gap="sm", wrap="nowrap",
            ),
            html.Button(html.Span(className="rl-icon rl-icon-scheme"), id="scheme", n_clicks=0, className="rl-round", title="Light or dark",
                        **{"aria-label": "Switch between light and dark"}),
        ],
        justify="space-between", h="100%", px="md", wrap="nowrap",
    )  # fmt: skip
    shell = dmc.AppShell(
        [
            dmc.AppShellHeader(header),
            dmc.AppShellNavbar(
                [
                    html.Nav(links, **{"aria-label": "Pages"}),
                    html.Div(
                        [
                            html.Div(["Lake: ", html.Code(lake.home.path.name, title=str(lake.home.path))]),
                            html.A("JSON API", href="/api", target="_blank", className="rl-quiet"),
                        ],
                        className="rl-nav-foot",
                    ),
                ],
                p="xs",
            ),
            dmc.AppShellMain(html.Main(dash.page_container, id="content"), className="rl-main"),
        ],
        id="shell",
        header={"height": 56},
        navbar={"width": 216, "breakpoint": "sm", "collapsed": {"mobile": True}},
        padding={"base": "sm", "sm": "lg"},
        transitionDuration=120,
    )
    return dmc.MantineProvider(
        [
            html.A("Skip to content", href="#content", className="rl-skip"),
            dcc.Store(id="url-written"),
            dcc.Store(id="scheme-written"),
            dcc.Store(id="followed"),
            shell,
        ],
        id="mantine",
        theme={"primaryColor": "indigo", "defaultRadius": "md", "fontFamily": "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif",
               "fontFamilyMonospace": "ui-monospace, 'DejaVu Sans Mono', monospace", "cursorType": "pointer"},
        defaultColorScheme="auto",
    )  # fmt: skip


def _register_shell(app: Dash) -> None:
    """The functions of assets/rooflake.js."""
    named = partial(ClientsideFunction, "rooflake")
    app.clientside_callback(
        named("writeUrl"),
        Output("url-written", "data"),
        Input({"page": ALL, "control": ALL}, "value"),
        Input({"page": ALL, "switch": ALL}, "checked"),
    )
    app.clientside_callback(
        named("follow"), Output("followed", "data"), Input({"graph": ALL}, "clickData"), prevent_initial_call=True
    )
    app.clientside_callback(
        named("copyLink"), Output("copy-link", "children"), Input("copy-link", "n_clicks"), prevent_initial_call=True
    )
    app.clientside_callback(
        named("switchScheme"), Output("scheme-written", "data"), Input("scheme", "n_clicks"), prevent_initial_call=True
    )
    app.clientside_callback(
        named("openMenu"),
        Output("shell", "navbar"),
        Input("burger", "opened"),
        State("shell", "navbar"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        named("showWhere"),
        Output({"nav": ALL}, "active"),
        Output("burger", "opened"),
        Input("_pages_location", "pathname"),
        State({"nav": ALL}, "id"),
    )
