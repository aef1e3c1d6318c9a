"""The dashboard in a real Chromium over a real server: every page at two widths, the link that carries the state, nothing leaving loopback."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import broken_server
import computed_lake
import measured_lake
import pytest
import serving_lake
import small_lake

from warehouse.store import open_store

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: it comes with the extra `dev`"
)

pytestmark = [pytest.mark.browser, pytest.mark.server, pytest.mark.slow]

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
         "--disable-sync"]  # fmt: skip
ANSWER = [
    broken_server.STREAM,
    b'data: {"choices": [{"index": 0, "delta": {"content": "Hello"}}]}\n\n',
    b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}\n\n',
    b"data: [DONE]\n\n",
]
"""An answer of one token in the chat API's stream."""
BENCH_PAGES = {
    "/machine": "What a machine reaches",
    "/training": "Training steps",
    "/layers?run=lp-eager": "Layers of one run",
    "/run?run_id=lp-eager": "Llama 2 7B on NVIDIA A100",
}
"""Pages over what the measuring collectors land."""
PAGES = {
    "/": "How fast is an LLM",
    "/compare": "Compare devices",
    "/roofline": "Roofline",
    "/roofline?run=m-a6000": "Roofline",
    "/layers": "Layers of one run",
    "/machine": "Machine",
    "/training": "Training",
    "/predict": "Predict",
    "/run": "Runs",
    "/run?run_id=m-a6000": "Llama 2 7B on NVIDIA RTX A6000",
    "/run?run_id=m-serve": "Llama 2 7B on NVIDIA RTX A6000",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, chromium: str) -> Iterator[str]:
    """Address of `python -m dashboard` over the small lake."""
    yield from _serve(small_lake.build(tmp_path_factory.mktemp("browser")))


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, chromium: str) -> Iterator[str]:
    """Address of `python -m dashboard` over rows of the measuring collectors."""
    yield from _serve(measured_lake.build(tmp_path_factory.mktemp("measured")))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, chromium: str) -> Iterator[str]:
    """Address of `python -m dashboard` over served loads, findings and tables of kernels."""
    yield from _serve(serving_lake.build(tmp_path_factory.mktemp("served")))


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory, chromium: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Address of `python -m dashboard` over rows of the analytical engine, and their ids."""
    home = computed_lake.build(tmp_path_factory.mktemp("computed"))
    with open_store(home, read_only=True) as store:
        ids = computed_lake.ids(store)
    for address in _serve(home):
        yield address, ids


def _serve(home: Path) -> Iterator[str]:
    port = _free_port()
    command = [sys.executable, "-m", "dashboard", "--home", str(home), "--port", str(port)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=Path(__file__).parents[2]
    )
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_for(address + "/api", process)
        yield address
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, headless=True, args=FLAGS)
        yield running
        running.close()


Open = Callable[..., Any]


@pytest.fixture
def fresh(browser: Any, server: str) -> Iterator[Open]:
    """A page in a browser context of its own; the test fails where its console has an error or a request leaves loopback."""
    contexts: list[Any] = []
    complaints: list[str] = []

    def open_page(path: str, width: int = 1440, scheme: str = "light") -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,
            permissions=["clipboard-read", "clipboard-write"],
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: complaints.append(request.url) if _leaves(request.url) else None)
        page.goto(path if path.startswith("http") else server + path)
        page.wait_for_selector("h1, .rl-problem")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.mark.parametrize("path", PAGES)
def test_a_page_opens_and_fits_a_phone_and_a_desk(fresh: Open, path: str) -> None:
    page = fresh(path, width=375)
    assert PAGES[path] in page.inner_text("h1")
    page.wait_for_load_state("networkidle")
    assert page.locator(".rl-problem").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    page.set_viewport_size({"width": 1440, "height": 900})
    page.wait_for_function("document.documentElement.scrollWidth <= 1440")
    assert page.get_by_role("link", name="Compare devices side by side").is_visible()


@pytest.mark.parametrize("path", BENCH_PAGES)
def test_a_page_of_measurements_opens_and_fits_a_phone_and_a_desk(fresh: Open, measured: str, path: str) -> None:
    page = fresh(measured + path, width=375)
    assert BENCH_PAGES[path] in page.inner_text("h1")
    page.wait_for_selector(".js-plotly-plot .main-svg")
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    page.set_viewport_size({"width": 1440, "height": 900})
    page.wait_for_function("document.documentElement.scrollWidth <= 1440")


def test_a_chosen_module_narrows_the_kernels_and_is_in_the_link(fresh: Open, measured: str) -> None:
    page = fresh(f"{measured}/layers?run=lp-eager")
    page.wait_for_selector("#layers-kernels .ag-row")
    _choose(page, "Below the module", "model.layers.0.q_proj")
    page.wait_for_url("**module=model.layers.0.q_proj**")
    other = fresh(page.url)
    other.wait_for_selector("#layers-kernels .ag-row")
    assert other.get_by_label("Below the module", exact=True).first.input_value() == "model.layers.0.q_proj"


@pytest.mark.parametrize("width", [1440, 375])
def test_an_analytical_run_shows_its_estimate_memory_and_constants(
    fresh: Open, computed: tuple[str, dict[str, str]], width: int
) -> None:
    address, ids = computed
    page = fresh(f"{address}/run?run_id={ids['eager']}", width=width)
    page.wait_for_selector("#memory-parts .js-plotly-plot .bars .point")
    assert "90 % interval" in page.inner_text("#estimate")
    assert "+10 % memory bandwidth makes the bound 10.0 % faster." in page.inner_text("#estimate")
    assert {"Weights", "KV cache"} <= set(page.locator("#memory-parts .legendtext").all_text_contents())
    assert "USD" in page.inner_text("#cost")
    constants = page.locator("#constants")
    assert "snapshot 7" in constants.inner_text()
    assert not constants.locator("table").is_visible()
    constants.locator("summary").click()
    assert "Bandwidth efficiency" in constants.locator("table").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_metric_nobody_knows_leads_to_one_that_is_known(fresh: Open, computed: tuple[str, dict[str, str]]) -> None:
    page = fresh(f"{computed[0]}/compare?llm=llama-2-7b&phase=decode&metric=ttft_s&colour=red", width=375)
    assert "The link says colour" in page.inner_text(".rl-unread")
    page.locator("#absent").get_by_role("link", name="Cost per million tokens").click()
    page.wait_for_selector("h2:has-text('Cost per million tokens, Llama 2 7B')")
    page.wait_for_selector(".js-plotly-plot .xtitle")
    assert page.get_by_label("Metric", exact=True).first.input_value() == "Cost per million tokens"


@pytest.mark.parametrize(
    ("path", "title"),
    [
        ("/serving", "Servers under load"),
        ("/findings", "Findings"),
        ("/machine?device=h100-sxm&kernel=any", "What a machine reaches"),
        ("/run?run_id=vllm-8", "Llama 2 7B on NVIDIA H100"),
    ],
)
def test_a_page_of_served_loads_opens_and_fits_a_phone_and_a_desk(
    fresh: Open, served: str, path: str, title: str
) -> None:
    page = fresh(served + path, width=375)
    assert title in page.inner_text("h1")
    page.wait_for_selector(".js-plotly-plot .main-svg")
    assert page.locator(".rl-unread").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    page.set_viewport_size({"width": 1440, "height": 900})
    page.wait_for_function("document.documentElement.scrollWidth <= 1440")


def test_another_definition_and_another_statistic_are_in_the_link(fresh: Open, served: str) -> None:
    page = fresh(f"{served}/serving")
    pareto = page.locator("#pareto")
    pareto.get_by_role("link", name="tokens_over_whole_run").click()
    page.wait_for_url("**definition=tokens_over_whole_run**")
    page.wait_for_selector("#pareto .rl-chip-on:has-text('tokens_over_whole_run')")
    page.get_by_text("p99", exact=True).click()
    page.wait_for_url("**stat=p99**")
    other = fresh(page.url, width=375)
    other.wait_for_selector("h3:has-text('TTFT, p99')")
    assert "tokens_over_whole_run" in other.inner_text("#pareto .rl-chip-on >> nth=0")


def test_a_prompt_is_asked_from_the_page_and_leads_to_its_run(fresh: Open, served: str) -> None:
    with broken_server.serving(ANSWER) as endpoint:
        page = fresh(f"{served}/serving", width=375)
        page.get_by_label("URL").fill(endpoint.url)
        page.get_by_label("Model", exact=True).fill("tiny")
        page.get_by_label("Prompt").fill("Say hello.")
        page.get_by_role("button", name="Ask", exact=True).click()
        page.wait_for_selector("#ask-state >> text=Hello", timeout=60_000)
        page.get_by_role("link", name="The stored run").click(timeout=60_000)
    page.wait_for_selector("#inference")
    assert "Say hello." in page.inner_text("#inference")
    assert page.evaluate("document.documentElement.scrollWidth") <= 375


def test_a_changed_control_is_in_the_link_and_a_fresh_browser_shows_the_same(fresh: Open) -> None:
    page = fresh("/compare")
    page.wait_for_selector(".js-plotly-plot")
    _choose(page, "Metric", "Peak memory")
    page.wait_for_url("**metric=memory_peak_bytes**")
    page.get_by_label("Rows kept out of charts").click()
    page.wait_for_url("**excluded=1**")
    page.wait_for_selector("h2:has-text('Peak memory')")
    page.get_by_role("button", name="Copy link").click()
    page.wait_for_selector("button:has-text('Copied')")
    link = page.evaluate("navigator.clipboard.readText()")
    assert parse_qs(urlsplit(link).query)["snapshot"][0].isdigit()

    other = fresh(link, width=375)
    other.wait_for_selector("h2:has-text('Peak memory')")
    assert other.get_by_label("Metric", exact=True).first.input_value() == "Peak memory"
    assert other.get_by_label("Rows kept out of charts").is_checked()
    assert "snapshot" in other.inner_text(".rl-pinned")
    assert _points(other) == _points(page)


def test_every_kind_is_on_the_first_comparison(fresh: Open) -> None:
    page = fresh("/compare")
    page.wait_for_selector(".js-plotly-plot .legendtext")
    assert set(page.locator(".js-plotly-plot .legendtext").all_text_contents()) >= {
        "measured",
        "published",
        "analytical",
    }


def test_a_point_and_a_table_row_lead_to_the_run(fresh: Open) -> None:
    page = fresh("/compare")
    page.locator(".rl-cell-link").first.click()
    page.wait_for_url("**/run?run_id=**")
    page.wait_for_selector("h2:has-text('Configuration')")
    page.go_back()
    page.wait_for_selector(".js-plotly-plot .point")
    page.locator(".js-plotly-plot .trace.scatter .point").first.dispatch_event("mouseover")
    box = page.locator(".js-plotly-plot .trace.scatter .point").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_url("**/run?run_id=**")


def test_changing_the_llm_or_phase_narrows_the_rest(fresh: Open) -> None:
    page = fresh("/compare")
    _choose(page, "Phase", "Serve")
    page.wait_for_url("**phase=serve**")
    page.wait_for_url(lambda url: "tokens=64%20in" in url)
    assert page.get_by_label("Tokens", exact=True).first.input_value() == "64 in, 16 out, 2 at once"


def test_the_keyboard_reaches_a_run(fresh: Open) -> None:
    page = fresh("/run")
    page.wait_for_selector(".rl-cell-link")
    page.locator(".ag-cell").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/run?run_id=**")


def test_the_menu_opens_and_closes_on_a_phone(fresh: Open) -> None:
    page = fresh("/", width=375)
    page.get_by_label("Menu").click()
    page.get_by_role("link", name="Roofline how far from the limit").click()
    page.wait_for_selector("h1:has-text('Roofline')")
    page.wait_for_function("document.querySelector('.mantine-AppShell-navbar').getBoundingClientRect().right <= 0")


def test_touch_targets_are_large_enough(fresh: Open) -> None:
    page = fresh("/compare", width=375)
    page.wait_for_load_state("networkidle")
    small = page.evaluate(
        """[...document.querySelectorAll('a.rl-export, button.rl-touch, .rl-round, .rl-burger, .rl-controls input:not([type=hidden]):not([type=checkbox])'
           + ':not([type=radio]):not(.mantine-MultiSelect-inputField)')]
           .map(e => [e.className, e.getBoundingClientRect()]).filter(([, r]) => r.height > 0 && r.height < 44).map(([name]) => name)"""
    )
    assert small == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_schemes_are_readable_and_the_switch_stays(fresh: Open, scheme: str) -> None:
    page = fresh("/compare", scheme=scheme)
    page.wait_for_selector(".js-plotly-plot .xtitle")
    assert _is_dark(page) == (scheme == "dark")
    ink, paper = page.evaluate(
        "[getComputedStyle(document.querySelector('.xtitle')).fill, getComputedStyle(document.querySelector('.rl-card')).backgroundColor]"
    )
    assert abs(_lightness(ink) - _lightness(paper)) > 120
    page.get_by_label("Switch between light and dark").click()
    page.wait_for_function(f"document.documentElement.dataset.mantineColorScheme !== '{scheme}'")
    page.reload()
    page.wait_for_selector("h1")
    assert _is_dark(page) != (scheme == "dark")


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("/run?run_id=nobody", "There is no run 'nobody' in this lake."),
        ("/compare?llm=gpt-9", "The link asks for llm 'gpt-9'"),
        ("/compare?snapshot=4242", "Snapshot 4242 does not exist"),
        ("/layers?run=nobody", "There is no run 'nobody'"),
        ("/predict?batch_size=-3", "which is not a whole number above 0"),
    ],
)
def test_a_bad_link_gets_a_sentence(fresh: Open, path: str, sentence: str) -> None:
    page = fresh(path, width=375)
    assert sentence in page.inner_text(".rl-problem")
    assert page.evaluate("document.documentElement.scrollWidth") <= 375


def _choose(page: Any, label: str, option: str) -> None:
    page.get_by_label(label, exact=True).first.click()
    page.get_by_role("option", name=option, exact=True).first.click()


def _points(page: Any) -> list[list[float]]:
    page.wait_for_selector(".js-plotly-plot .point")
    values: list[list[float]] = page.evaluate(
        "document.querySelector('.js-plotly-plot').data.filter(t => t.name).map(t => Array.from(t.x._inputArray || t.x))"
    )
    return values


def _is_dark(page: Any) -> bool:
    return bool(page.evaluate("document.documentElement.dataset.mantineColorScheme === 'dark'"))


def _lightness(colour: str) -> float:
    parts = [float(part) for part in colour.partition("(")[2].rstrip(")").split(",")[:3]]
    return sum(parts) / 3


def _leaves(url: str) -> bool:
    return not url.startswith(("http://127.0.0.1:", "data:", "blob:"))


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(address: str, process: subprocess.Popen[str]) -> None:
    for _ in range(240):
        if process.poll() is not None:
            raise AssertionError(process.stdout.read() if process.stdout else "the server ended")
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.25)
    raise AssertionError("the server did not answer within a minute")
