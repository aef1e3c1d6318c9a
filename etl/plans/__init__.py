"""Plans: TOML files of sweeps. `[[sweep]]` names a collector; its other keys are that collector's options."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import collectors

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Sweep:
    """One call of one collector."""

    collector: str
    title: str
    options: dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """Sweeps in order, then whether configurations get analytical twins and predictors are trained."""

    name: str
    sweeps: tuple[Sweep, ...]
    twins: bool
    train: bool


def load(name: str) -> Plan:
    """A plan by file path, or by name from this folder. Raises ValueError saying what is wrong and what is known."""
    path = Path(name)
    if not path.suffix:
        path = FOLDER / f"{name}.toml"
    if not path.exists():
        known = ", ".join(sorted(file.stem for file in FOLDER.glob("*.toml")))
        raise ValueError(f"There is no plan '{name}'. Known: {known}; or name a TOML file.")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"The plan '{path.name}' is not TOML: {error}.") from error
    unknown = set(content) - {"name", "sweep", "twins", "train"}
    if unknown:
        raise ValueError(f"The plan '{path.name}' has no key {sorted(unknown)}. Known: name, sweep, twins, train.")
    return Plan(
        content.get("name", path.stem),
        tuple(_sweep(path.name, entry) for entry in content.get("sweep", [])),
        content.get("twins", True),
        content.get("train", True),
    )


def _sweep(file_name: str, entry: dict[str, Any]) -> Sweep:
    options = dict(entry)
    collector = options.pop("collector", None)
    if collector not in collectors.names():
        raise ValueError(
            f"The plan '{file_name}' has a sweep of collector '{collector}'. Known: {', '.join(collectors.names())}."
        )
    return Sweep(collector, options.pop("title", collector), options)
