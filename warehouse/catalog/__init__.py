"""Device types, LLM architectures, prices and sources: TOML with a source and a date on every entry.

One table per entry, the key is its id; `hardware.toml`, `llms.toml`, `prices.toml` lie beside this file. Files of these names
in a folder of your own (`ROOFLAKE_CATALOG_FOLDER`, or `extend`) add entries, and replace those of the same id as a whole.
"""

from __future__ import annotations

import datetime
import difflib
import json
import math
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from warehouse import schema
from warehouse.catalog.llm import Llm, active_parameter_count

FOLDER = Path(__file__).parent
USER_FOLDER = "ROOFLAKE_CATALOG_FOLDER"
"""Environment variable that names the user's own folder; child processes inherit it."""
FILES = {"hardware.toml": "hardware", "llms.toml": "llms", "prices.toml": "prices"}
"""File -> the warehouse table whose rows it holds."""

_NEEDED = {
    "hardware": ("memory_bandwidth_bytes_per_s",),
    "llms": ("architecture", "config"),
    "prices": ("usd_per_device_hour",),
}
"""Fields an entry needs beside the required columns of its table."""
_LLM_FIELDS = (
    "name",
    "organisation",
    "family",
    "hf_id",
    "architecture",
    "num_parameters",
    "source",
    "source_date",
    "note",
)
"""Columns of `llms` that an entry states; the others follow from its config."""


class CatalogError(ValueError):
    """A catalogue file that cannot be used. The message names the file, the entry, the field, and what is known."""


class UnknownEntryError(KeyError):
    """An id that no catalogue holds. The message lists what is known and where to add it."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True)
class Hardware:
    """One device type. Rates in FLOP/s and B/s (decimal, dense), sizes in bytes; None where unsupported or unpublished."""

    hardware_id: str
    name: str
    kind: str
    memory_bytes: float | None
    memory_bandwidth_bytes_per_s: float
    peaks: dict[str, float]
    vector_fp32_flops_per_s: float | None
    onchip_bytes: float | None
    tdp_w: float | None
    row: dict[str, Any]

    def peak(self, dtype: str) -> float | None:
        """Dense matrix peak of a compute dtype in FLOP/s, or None where the device does not support it."""
        return self.peaks.get(dtype)


def extend(folder: Path | str | None) -> None:
    """Let the TOML files of a folder add to the built-in catalogues and replace entries of the same id; None undoes it.

    Holds for this process and those it starts. An entry that replaces a built-in one keeps its aliases. Raises CatalogError
    where the folder or an entry cannot be used, and then leaves the catalogues as they were.
    """
    before = os.environ.get(USER_FOLDER)
    _set_user_folder(None if folder is None else str(Path(folder).absolute()))
    try:
        for load in (_hardware, _llms, _prices):
            load()
    except CatalogError:
        _set_user_folder(before)
        raise


def hardware() -> dict[str, Hardware]:
    """Every device type, by id."""
    return dict(_hardware())


def llms() -> dict[str, Llm]:
    """Every LLM, by id."""
    return dict(_llms())


def find_hardware(name: str) -> Hardware:
    """A device type by id or alias, in any case. Raises UnknownEntryError."""
    return _find(name, _hardware(), _hardware_aliases(), "hardware", "hardware.toml")


def find_llm(name: str) -> Llm:
    """An LLM by id or Hugging Face repository, in any case. Raises UnknownEntryError."""
    return _find(name, _llms(), _llm_aliases(), "LLM", "llms.toml")


def rows(table_name: str) -> list[dict[str, Any]]:
    """The catalogue's rows of a warehouse table: hardware, llms or prices."""
    if table_name == "hardware":
        return [entry.row for entry in _hardware().values()]
    if table_name == "llms":
        return [llm_row(entry) for entry in _llms().values()]
    if table_name == "prices":
        return list(_prices().values())
    raise KeyError(f"'{table_name}' is not a catalogue. Known: hardware, llms, prices.")


def price(hardware_id: str) -> dict[str, Any] | None:
    """The `prices` row with the lowest usd_per_device_hour of a device, or None where no price is known."""
    offers = [row for row in _prices().values() if row["hardware_id"] == hardware_id]
    return dict(min(offers, key=lambda row: float(row["usd_per_device_hour"]))) if offers else None


def llm_row(llm: Llm) -> dict[str, Any]:
    """The `llms` row of an LLM."""
    return {
        "llm_id": llm.llm_id,
        "name": llm.name,
        "organisation": llm.organisation,
        "family": llm.family,
        "hf_id": llm.hf_id,
        "architecture": llm.architecture,
        "num_parameters": llm.num_parameters,
        "num_active_parameters": active_parameter_count(llm),
        "num_layers": llm.num_layers,
        "num_encoder_layers": llm.num_encoder_layers if llm.architecture == "encoder_decoder" else None,
        "hidden_size": llm.hidden_size,
        "num_heads": llm.num_heads,
        "num_kv_heads": llm.num_kv_heads,
        "head_dim": llm.head_dim,
        "intermediate_size": llm.intermediate_size,
        "vocab_size": llm.vocab_size,
        "max_context_tokens": llm.max_context_tokens,
        "config_json": json.dumps(llm.config, sort_keys=True),
        "source": llm.source,
        "source_date": llm.source_date,
        "note": llm.note,
    }


def hardware_from_row(row: dict[str, Any]) -> Hardware:
    """A Hardware from a `hardware` row (a catalogue entry, a lake row, or numbers somebody typed)."""
    peaks = {
        name.removeprefix("peak_").removesuffix("_flops_per_s"): float(value)
        for name, value in row.items()
        if name.startswith("peak_") and value is not None
    }
    return Hardware(
        hardware_id=row["hardware_id"],
        name=row["name"],
        kind=row.get("kind") or "accelerator",
        memory_bytes=row.get("memory_bytes"),
        memory_bandwidth_bytes_per_s=float(row["memory_bandwidth_bytes_per_s"]),
        peaks=peaks,
        vector_fp32_flops_per_s=row.get("vector_fp32_flops_per_s"),
        onchip_bytes=row.get("onchip_bytes"),
        tdp_w=row.get("tdp_w"),
        row=dict(row),
    )


def _set_user_folder(folder: str | None) -> None:
    if folder is None:
        os.environ.pop(USER_FOLDER, None)
    else:
        os.environ[USER_FOLDER] = folder
    for cached in (_entries, _hardware, _llms, _prices, _hardware_aliases, _llm_aliases):
        cached.cache_clear()


def _user_folder() -> Path | None:
    """The user's folder, or None where none is set. Raises CatalogError where it cannot be one."""
    text = os.environ.get(USER_FOLDER)
    if not text:
        return None
    folder, names = Path(text), ", ".join(FILES)
    if not folder.is_dir():
        raise CatalogError(f"'{folder}' ({USER_FOLDER}) is not a folder. Make it, with any of {names} in it.")
    if not any((folder / name).is_file() for name in FILES):
        raise CatalogError(f"'{folder}' ({USER_FOLDER}) holds none of {names}.")
    return folder


@cache
def _entries(file_name: str) -> dict[str, dict[str, Any]]:
    """Checked entries by id: the built-in ones, then the user's, in place of those of the same id."""
    entries = _read(FOLDER / file_name)
    folder = _user_folder()
    if folder is not None and (folder / file_name).is_file():
        for key, entry in _read(folder / file_name).items():
            aliases = [*entries.pop(key, {}).get("aliases", ()), *entry.get("aliases", ())]
            entries[key] = {**entry, "aliases": aliases} if aliases else entry
    return entries


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # ValueError: not TOML, not UTF-8
        raise CatalogError(f"{path} cannot be read as TOML: {error}.") from None
    return {key: _checked(f"{path} [{key}]", FILES[path.name], entry) for key, entry in content.items()}


def _checked(label: str, table_name: str, entry: Any) -> dict[str, Any]:
    """An entry with known, complete, plausible fields. Raises CatalogError."""
    if not isinstance(entry, Mapping):
        raise CatalogError(f"{label}: an entry is a table of fields, not {entry!r}.")
    table = schema.table(table_name)
    columns = {column.name: column for column in table.columns if column.name not in table.key}
    if table_name == "llms":
        columns = {name: columns[name] for name in _LLM_FIELDS}
    others = {"hardware": ("aliases",), "llms": ("aliases", "config"), "prices": ()}[table_name]
    known = (*columns, *others)
    strange = [name for name in entry if name not in known]
    if strange:
        raise CatalogError(f"{label}: no such field {_quoted(strange)}. Known: {', '.join(known)}.")
    needed = [name for name, column in columns.items() if column.is_required]
    missing = [name for name in dict.fromkeys((*needed, *_NEEDED[table_name])) if name not in entry]
    if missing:
        raise CatalogError(f"{label}: {_quoted(missing)} is missing. Known: {', '.join(known)}.")
    checked = {name: value.isoformat() if isinstance(value, datetime.date) else value for name, value in entry.items()}
    for name, value in checked.items():
        fault = _fault(columns[name], value) if name in columns else _other_fault(name, value)
        if fault is not None:
            raise CatalogError(f"{label}: {name} must be {fault}, not {value!r}.")
    return checked


def _fault(column: schema.Column, value: Any) -> str | None:
    """What a value of a column must be, where it is not."""
    if column.name == "source_date":
        return None if _is_date(value) else "an ISO date such as 2026-11-21"
    if pa.types.is_string(column.type):
        if column.values is not None and value not in column.values:
            return f"one of {', '.join(column.values)}"
        return None if isinstance(value, str) and value else "text"
    if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value > 0):
        return "a positive number (leave the field out where it is not known or not supported)"
    return None if isinstance(value, int) or pa.types.is_floating(column.type) else "a whole number"


def _other_fault(name: str, value: Any) -> str | None:
    if name == "config":
        return None if isinstance(value, Mapping) else "a table of config.json keys"
    return None if isinstance(value, list) and all(isinstance(alias, str) for alias in value) else "a list of texts"


def _is_date(value: Any) -> bool:
    try:
        datetime.date.fromisoformat(value)
    except (TypeError, ValueError):
        return False
    return True


@cache
def _hardware() -> dict[str, Hardware]:
    return {
        key: hardware_from_row(
            {"hardware_id": key, **{name: value for name, value in entry.items() if name != "aliases"}}
        )
        for key, entry in _entries("hardware.toml").items()
    }


@cache
def _llms() -> dict[str, Llm]:
    return {key: _llm(key, entry) for key, entry in _entries("llms.toml").items()}


def _llm(key: str, entry: dict[str, Any]) -> Llm:
    try:
        return Llm.from_entry(key, entry)
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError) as error:
        said = str(error).removeprefix(f"llms.toml [{key}]: ").removeprefix(f"'{key}': ")
        raise CatalogError(f"{_origin('llms.toml', key)} [{key}]: its config cannot be read: {said}") from None


@cache
def _prices() -> dict[str, dict[str, Any]]:
    devices = _hardware()
    prices = {key: {"price_id": key, **entry} for key, entry in _entries("prices.toml").items()}
    for key, row in prices.items():
        if row["hardware_id"] not in devices:
            raise CatalogError(
                f"{_origin('prices.toml', key)} [{key}]: hardware_id '{row['hardware_id']}' is not in the hardware "
                f"catalogue. Known: {_known(row['hardware_id'], _hardware_aliases(), devices)}."
            )
    return prices


def _origin(file_name: str, key: str) -> Path:
    """The file that an entry comes from."""
    folder = _user_folder()
    if folder is not None and (folder / file_name).is_file() and key in _read(folder / file_name):
        return folder / file_name
    return FOLDER / file_name


@cache
def _hardware_aliases() -> dict[str, str]:
    entries = _entries("hardware.toml")
    return {
        _plain(alias): key
        for key, entry in entries.items()
        for alias in (key, entry["name"], *entry.get("aliases", ()))
    }


@cache
def _llm_aliases() -> dict[str, str]:
    entries = _entries("llms.toml")
    return {
        _plain(alias): key
        for key, entry in entries.items()
        for alias in (key, entry["name"], entry.get("hf_id") or key, *entry.get("aliases", ()))
    }


def _find(name: str, entries: dict[str, Any], aliases: dict[str, str], what: str, file_name: str) -> Any:
    key = name if name in entries else aliases.get(_plain(name))
    if key is None:
        place = _user_folder() or "warehouse/catalog"
        known = _known(name, aliases, entries)
        raise UnknownEntryError(
            f"'{name}' is not in the {what} catalogue. Known: {known}. Add it in {place}/{file_name}."
        )
    return entries[key]


def _known(name: str, aliases: Mapping[str, str], entries: Iterable[str]) -> str:
    """What was perhaps meant, then the first ids, and how many more there are."""
    close = [aliases[alias] for alias in difflib.get_close_matches(_plain(name), aliases, n=5)]
    ids = list(dict.fromkeys([*close, *entries]))
    more = f" and {len(ids) - MOST_NAMED} more" if len(ids) > MOST_NAMED else ""
    return ", ".join(ids[:MOST_NAMED]) + more


MOST_NAMED = 16
"""Ids that an error names at most."""


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _plain(name: str) -> str:
    return name.lower().replace("_", "-").replace(" ", "-")
