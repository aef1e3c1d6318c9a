"""What commands of `rooflake` share: options, output formats, lists of values, narration and refusals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from typer.core import TyperCommand

if TYPE_CHECKING:
    from warehouse.store import Home

stderr = Console(stderr=True, highlight=False, markup=False)

HomeOption = Annotated[
    Path | None,
    typer.Option("--home", help="Home folder; else ROOFLAKE_HOME, else ./rooflake-data.", show_default=False),
]


class Format(StrEnum):
    """How a command prints its rows."""

    table = "table"
    csv = "csv"
    json = "json"
    parquet = "parquet"


class Lists(TyperCommand):
    """A command whose repeatable options also take several values after one name: `--hardware a6000 h100-sxm`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        names = {name for option in self.params if getattr(option, "multiple", False) for name in option.opts}
        return super().parse_args(ctx, spread(args, names))


def spread(words: Sequence[str], names: set[str]) -> list[str]:
    """Words with the name of a list option before every one of its values: `--hardware a --hardware b`."""
    result: list[str] = []
    name, has_value = "", False
    for word in words:
        if word.startswith("-"):
            name, _, value = word.partition("=")
            has_value = value != ""
        elif name in names:
            result += [name] if has_value else []
            has_value = True
        result.append(word)
    return result


FormatOption = Annotated[Format, typer.Option("--format", "-f", help="Output format.")]
OutputOption = Annotated[Path | None, typer.Option("--output", "-o", help="File to write; parquet needs one.")]


def existing(folder: Path | None) -> Home:
    """The home folder of a lakehouse. Raises StoreError, with what to do, where there is none."""
    from warehouse.store import Home, open_store

    home = Home.of(folder)
    if not home.exists:
        with open_store(home, read_only=True):
            pass
    return home


def say(line: str, style: str | None = None) -> None:
    stderr.print(line, style=style, soft_wrap=True)


def exit_if_refused(refused: Mapping[str, str]) -> None:
    for name, reason in refused.items():
        say(f"quarantined {name}: {reason}", style="red")
    if refused:
        raise typer.Exit(1)


def fail(message: str) -> NoReturn:
    say(message, style="red")
    raise typer.Exit(2)
