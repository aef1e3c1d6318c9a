"""The generated references say what the code says, and every link between documents leads somewhere."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
FIX = "Run `make docs` and commit what it changed."


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    written: dict[str, str] = runpy.run_path(str(DOCS / "generate.py"))["pages"]()
    return written


@pytest.mark.parametrize("name", ["schema.md", "metrics.md", "cli.md"])
def test_generated_page_is_current(name: str, pages: dict[str, str]) -> None:
    path = DOCS / name
    assert path.exists(), f"docs/{name} is missing. {FIX}"
    assert path.read_text(encoding="utf-8") == pages[name], f"docs/{name} is stale. {FIX}"


def test_no_other_page_is_generated(pages: dict[str, str]) -> None:
    assert sorted(pages) == ["cli.md", "metrics.md", "schema.md"]


def test_cli_page_names_every_command(pages: dict[str, str]) -> None:
    import typer

    from etl.cli import app

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert {f"rooflake {name}" for name in commands} <= set(re.findall(r"^### (.+)$", pages["cli.md"], re.MULTILINE))


def documents() -> list[Path]:
    return sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])


@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_to_files(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = re.findall(r"\]\((?!https?://|#|mailto:)([^)#\s]+)", text)
    broken = [target for target in targets if not (document.parent / target).exists()]
    assert not broken, f"{document.relative_to(ROOT)} links to what is not there: {broken}"


def test_decisions_are_numbered_without_gaps_and_say_what_follows() -> None:
    records = sorted((DOCS / "decisions").glob("*.md"))
    assert [int(record.name[:4]) for record in records] == list(range(1, len(records) + 1))
    for record in records:
        text = record.read_text(encoding="utf-8")
        missing = [section for section in ("## Context", "## Decision", "## Consequences") if section not in text]
        assert not missing, f"{record.name} lacks {missing}"
