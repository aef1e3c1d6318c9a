"""Plans: TOML files of sweeps. `[[sweep]]` names a collector; its other keys are that collector's options.

A campaign (collectors/campaigns/*.toml) is a plan that also says, sweep by sweep, which `part` of it a sweep belongs to and
what `share` of a time window it gets.
"""

from __future__ import annotations

import collections.abc
import functools
import inspect
import tomllib
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import collectors

CAMPAIGNS = Path(__file__).parent / "campaigns"
KEYS = {"name": str, "sweep": list, "twins": bool, "train": bool}
OURS = ("landing", "report", "skip", "hardware_row", "ceiling_row", "known_hardware")
"""Parameters of collectors that whoever runs a plan fills in."""


@dataclass(frozen=True)
class Sweep:
    """One call of one collector."""

    collector: str
    title: str
    options: dict[str, Any]
    part: str = ""
    share: float = 1.0


@dataclass(frozen=True)
class Plan:
    """Sweeps in order, then whether configurations get analytical twins and predictors are trained."""

    name: str
    sweeps: tuple[Sweep, ...]
    twins: bool
    train: bool


def load(name: str, folders: Sequence[Path] = (CAMPAIGNS,)) -> Plan:
    """A plan by file path, or by name from some folders. Raises ValueError saying what is wrong and what is known."""
    path = Path(name)
    if not path.suffix:
        path = next((one for one in (folder / f"{name}.toml" for folder in folders) if one.is_file()), path)
    if not path.is_file():
        known = ", ".join(sorted(file.stem for folder in folders for file in folder.glob("*.toml")))
        raise ValueError(f"There is no plan '{name}'. Known: {known}; or name a TOML file.")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"The plan '{path.name}' is not TOML: {error}.") from error
    for key, value in content.items():
        if key not in KEYS:
            raise ValueError(f"The plan '{path.name}' has no key '{key}'. Known: {', '.join(KEYS)}.")
        if not isinstance(value, KEYS[key]):
            wanted = {str: "a text", bool: "true or false", list: "[[sweep]] tables"}[KEYS[key]]
            raise ValueError(f"In the plan '{path.name}' {key} must be {wanted}, not {value!r}.")
    return Plan(
        content.get("name", path.stem),
        tuple(_sweep(f"The plan '{path.name}'", entry) for entry in content.get("sweep", [])),
        content.get("twins", True),
        content.get("train", True),
    )


def _sweep(plan: str, entry: Any) -> Sweep:
    if not isinstance(entry, dict):
        raise ValueError(
            f"{plan} has the sweep {entry!r}. A sweep is a table: [[sweep]], then collector = and options."
        )
    options = dict(entry)
    collector = options.pop("collector", None)
    if collector not in collectors.names():
        raise ValueError(f"{plan} has a sweep of collector '{collector}'. Known: {', '.join(collectors.names())}.")
    title = str(options.pop("title", collector))
    part, share = str(options.pop("part", "")), options.pop("share", 1.0)
    where = f"{plan}, sweep '{title}'"
    if not isinstance(share, int | float) or share <= 0:
        raise ValueError(f"{where}: share is a number above 0 (of the time that is left), not {share!r}.")
    return Sweep(collector, title, _options(where, collector, options), part, float(share))


def has_option(collector: str, name: str) -> bool:
    """Whether a collector's `collect` takes an option."""
    return name in inspect.signature(collectors.find(collector).collect).parameters


def _options(where: str, collector: str, given: dict[str, Any]) -> dict[str, Any]:
    """Options as the collector's `collect` takes them: one value for a list is a list of one."""
    collect = collectors.find(collector).collect
    hints = typing.get_type_hints(collect.func if isinstance(collect, functools.partial) else collect)
    known = {key: one for key, one in inspect.signature(collect).parameters.items() if key not in OURS}
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ValueError(f"{where}: {collector} has no option '{unknown[0]}'. Known: {', '.join(known)}.")
    missing = [name for name, one in known.items() if one.default is one.empty and name not in given]
    if missing:
        raise ValueError(f"{where}: {collector} needs {' and '.join(missing)}.")
    options = {}
    for name, value in given.items():
        is_several = _takes_several(hints[name])
        if isinstance(value, list) and not is_several:
            raise ValueError(f"{where}: {name} takes one value, not the list {value}.")
        options[name] = [value] if is_several and not isinstance(value, list) else value
        if not _fits(options[name], hints[name]):
            raise ValueError(f"{where}: {name} is {' or '.join(_words(hints[name]))}, not {value!r}.")
    return options


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value of TOML is of a type that a collector takes; a list must hold something."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if origin in (collections.abc.Sequence, list):
        return isinstance(value, list) and bool(value) and all(_fits(one, inner[0]) for one in value)
    if origin is collections.abc.Mapping:
        return isinstance(value, dict)
    if isinstance(value, bool):
        return hint is bool
    if hint is float:
        return isinstance(value, int | float)
    return isinstance(value, str if hint is Path else hint)


def _words(hint: Any) -> list[str]:
    """What a type hint takes, in words; None is to leave the option out."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return list(dict.fromkeys(word for one in inner if one is not types.NoneType for word in _words(one)))
    if origin in (collections.abc.Sequence, list):
        return [f"a list of one or more, each {' or '.join(_words(inner[0]))}"]
    if origin is collections.abc.Mapping:
        return ["a table"]
    return [{str: "a text", Path: "a text", int: "a whole number", float: "a number", bool: "true or false"}[hint]]


def _takes_several(hint: Any) -> bool:
    if typing.get_origin(hint) in (collections.abc.Sequence, list):
        return True
    return any(_takes_several(one) for one in typing.get_args(hint))
