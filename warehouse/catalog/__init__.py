"""Device types, LLM architectures, prices and sources: TOML with a source and a date on every entry.

One table per entry, the key is its id; `hardware.toml`, `llms.toml`, `prices.toml` lie beside this file.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from warehouse import schema
from warehouse.catalog.llm import Llm

FOLDER = Path(__file__).parent


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
        return [{"price_id": key, **entry} for key, entry in _entries("prices.toml").items()]
    raise KeyError(f"'{table_name}' is not a catalogue. Known: hardware, llms, prices.")


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


@cache
def _entries(file_name: str) -> dict[str, dict[str, Any]]:
    with (FOLDER / file_name).open("rb") as file:
        return tomllib.load(file)


@cache
def _hardware() -> dict[str, Hardware]:
    known = schema.table("hardware").names
    entries = {}
    for key, entry in _entries("hardware.toml").items():
        row = {"hardware_id": key, **{name: value for name, value in entry.items() if name != "aliases"}}
        strange = [name for name in row if name not in known]
        if strange:
            raise ValueError(f"hardware.toml [{key}]: no such field {strange}. Known: {', '.join(known)}, aliases.")
        entries[key] = hardware_from_row(row)
    return entries


@cache
def _llms() -> dict[str, Llm]:
    return {key: Llm.from_entry(key, entry) for key, entry in _entries("llms.toml").items()}


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
        close = [aliases[alias] for alias in difflib.get_close_matches(_plain(name), aliases, n=5)]
        known = ", ".join(dict.fromkeys([*close, *entries]))  # what was perhaps meant comes first
        raise UnknownEntryError(
            f"'{name}' is not in the {what} catalogue. Known: {known}. Add it in warehouse/catalog/{file_name}."
        )
    return entries[key]


def _plain(name: str) -> str:
    return name.lower().replace("_", "-").replace(" ", "-")
