"""A folder of the user's own: it adds and replaces entries, reaches the lake and child processes, and says what is wrong in it."""

from __future__ import annotations

import multiprocessing
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from warehouse import catalog
from warehouse.catalog import llm
from warehouse.store import Home, open_store

DEVICE = """
[wafer-9]
name = "Wafer 9"
vendor = "Ours"
kind = "accelerator"
memory_bytes = 1e12
memory_bandwidth_bytes_per_s = 20e12
peak_bf16_flops_per_s = 4e15
tdp_w = 900
source = "our laboratory"
source_date = 2026-11-01
aliases = ["the wafer"]
"""
MODEL = """
[tiny-llama]
name = "Tiny Llama"
architecture = "decoder"
num_parameters = 99_999
source = "our config.json"
source_date = "2026-11-01"
config = { model_type = "llama", hidden_size = 64, num_hidden_layers = 2, num_attention_heads = 4, intermediate_size = 128, vocab_size = 1000 }
"""
PRICE = """
[ours-wafer]
hardware_id = "wafer-9"
provider = "Ours"
usd_per_device_hour = 1.25
source = "our cost centre"
source_date = "2026-11-01"
"""


@pytest.fixture(autouse=True)
def built_in_catalogue() -> Iterator[None]:
    """Every test starts and ends with the built-in entries alone."""
    catalog.extend(None)
    yield
    catalog.extend(None)


def folder_of(path: Path, **files: str) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (path / f"{name}.toml").write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "mine", hardware=DEVICE, llms=MODEL, prices=PRICE)


def test_a_folder_adds_to_every_catalogue(folder: Path) -> None:
    counts = {name: len(catalog.rows(name)) for name in ("hardware", "llms", "prices")}
    catalog.extend(folder)
    assert {name: len(catalog.rows(name)) for name in counts} == {name: count + 1 for name, count in counts.items()}
    device = catalog.find_hardware("The Wafer")
    assert (device.hardware_id, device.peak("bf16"), device.row["source_date"]) == ("wafer-9", 4e15, "2026-11-01")
    assert catalog.find_llm("tiny llama").num_layers == 2
    offer = catalog.price("wafer-9")
    assert offer is not None
    assert offer["usd_per_device_hour"] == 1.25


def test_none_takes_it_back(folder: Path) -> None:
    built_in = catalog.rows("hardware")
    catalog.extend(folder)
    catalog.extend(None)
    assert catalog.rows("hardware") == built_in
    assert catalog.USER_FOLDER not in os.environ
    with pytest.raises(catalog.UnknownEntryError):
        catalog.find_hardware("wafer-9")


def test_one_file_is_enough(tmp_path: Path) -> None:
    catalog.extend(folder_of(tmp_path / "one", llms=MODEL))
    assert "tiny-llama" in catalog.llms()
    assert "a6000" in catalog.hardware()


def test_an_entry_of_a_known_id_replaces_it_as_a_whole_and_keeps_its_aliases(tmp_path: Path) -> None:
    text = DEVICE.replace("[wafer-9]", "[a100-sxm-80gb]").replace('"the wafer"', '"our a100"')
    number = len(catalog.hardware())
    catalog.extend(folder_of(tmp_path / "mine", hardware=text))
    assert len(catalog.hardware()) == number
    for name in ("a100-sxm-80gb", "NVIDIA A100-SXM4-80GB", "our a100"):
        device = catalog.find_hardware(name)
        assert (device.name, device.memory_bandwidth_bytes_per_s) == ("Wafer 9", 20e12)
    assert device.peak("int8") is None, "nothing of the replaced entry is left"
    assert device.row["source"] == "our laboratory"


def test_an_unknown_name_is_told_to_go_to_the_users_file(folder: Path) -> None:
    catalog.extend(folder)
    with pytest.raises(catalog.UnknownEntryError) as error:
        catalog.find_hardware("wafer-8")
    assert str(error.value).startswith("'wafer-8' is not in the hardware catalogue. Known: wafer-9, ")
    assert str(error.value).endswith(f"Add it in {folder}/hardware.toml.")


# -- processes


def hardware_in_child() -> list[str]:
    return list(catalog.hardware())


def test_spawned_workers_see_the_same_catalogue(folder: Path) -> None:
    catalog.extend(folder)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert "wafer-9" in pool.apply(hardware_in_child)


def test_the_variable_is_read_at_the_first_load_and_never_at_import(folder: Path, tmp_path: Path) -> None:
    def run(code: str, place: Path) -> str:
        environment = {**os.environ, catalog.USER_FOLDER: str(place)}
        return subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=60
        ).stdout

    assert "wafer-9" in run("from warehouse import catalog; print(*catalog.hardware())", folder)
    assert run("import warehouse.catalog; print('imported')", tmp_path / "absent") == "imported\n"


def test_entries_reach_the_lake_and_replace_what_it_held(folder: Path, tmp_path: Path) -> None:
    home = Home.of(tmp_path / "home")
    query = "SELECT name, memory_bandwidth_bytes_per_s AS rate FROM hardware WHERE hardware_id = $id"
    with open_store(home) as store:
        store.load()
        assert store.sql(query, {"id": "wafer-9"}).num_rows == 0
    (folder / "hardware.toml").write_text(DEVICE + DEVICE.replace("[wafer-9]", "[a6000]").replace('"the wafer"', ""))
    catalog.extend(folder)
    with open_store(home) as store:
        store.load()
        assert store.sql(query, {"id": "wafer-9"}).to_pylist() == [{"name": "Wafer 9", "rate": 20e12}]
        assert store.sql(query, {"id": "a6000"}).to_pylist() == [{"name": "Wafer 9", "rate": 20e12}]
        assert store.sql("SELECT config_json FROM llms WHERE llm_id = 'tiny-llama'").num_rows == 1
        assert store.sql("SELECT hardware_id FROM prices WHERE price_id = 'ours-wafer'").to_pylist() == [
            {"hardware_id": "wafer-9"}
        ]


# -- what is wrong in it


def said_of(folder: Path) -> str:
    """The message, after checking that it is one line and that the catalogue still works."""
    with pytest.raises(catalog.CatalogError) as error:
        catalog.extend(folder)
    said = str(error.value)
    assert len(said.splitlines()) == 1, said
    assert catalog.USER_FOLDER not in os.environ
    assert "a6000" in catalog.hardware()
    return said


def test_an_absent_or_empty_folder_is_refused(tmp_path: Path) -> None:
    assert said_of(tmp_path / "absent").startswith(
        f"'{tmp_path / 'absent'}' (ROOFLAKE_CATALOG_FOLDER) is not a folder."
    )
    (tmp_path / "hardwares.toml").write_text(DEVICE)
    assert said_of(tmp_path).endswith("holds none of hardware.toml, llms.toml, prices.toml.")


@pytest.mark.parametrize(
    ("was", "is_now", "pattern"),
    [
        ("[wafer-9]", "[wafer-9", r"hardware\.toml cannot be read as TOML: .*line 2"),
        ("tdp_w = 900", "tdp = 900", r"no such field 'tdp'\. Known: name, .*tdp_w, .*aliases\."),
        ("memory_bandwidth_bytes_per_s = 20e12\n", "", r"'memory_bandwidth_bytes_per_s' is missing\. Known: "),
        ('source = "our laboratory"\n', "", r"'source' is missing"),
        ("tdp_w = 900", 'tdp_w = "900 W"', r"tdp_w must be a positive number .*, not '900 W'"),
        ("tdp_w = 900", "tdp_w = -900", r"tdp_w must be a positive number \(leave the field out .*\), not -900"),
        ("tdp_w = 900", "tdp_w = 0", r"tdp_w must be a positive number .*, not 0\."),
        ("tdp_w = 900", "tdp_w = nan", r"tdp_w must be a positive number .*, not nan"),
        ("tdp_w = 900", "tdp_w = true", r"tdp_w must be a positive number .*, not True"),
        ("tdp_w = 900", "num_cores = 9.5", r"num_cores must be a whole number, not 9\.5"),
        ('kind = "accelerator"', 'kind = "wafer"', r"kind must be one of gpu, cpu, tpu, accelerator, measured, not 'wafer'"),
        ('name = "Wafer 9"', "name = 9", r"name must be text, not 9"),
        ("source_date = 2026-11-01", 'source_date = "November"', r"source_date must be an ISO date .*, not 'November'"),
        ('aliases = ["the wafer"]', 'aliases = "the wafer"', r"aliases must be a list of texts, not 'the wafer'"),
        (DEVICE, "wafer-9 = 12", r"an entry is a table of fields, not 12"),
    ],
)  # fmt: skip
def test_a_wrong_device_is_refused(tmp_path: Path, was: str, is_now: str, pattern: str) -> None:
    assert was in DEVICE
    folder = folder_of(tmp_path / "mine", hardware=DEVICE.replace(was, is_now))
    said = said_of(folder)
    assert said.startswith(str(folder / "hardware.toml"))
    assert re.search(pattern, said), said
    assert "cannot be read as TOML" in said or "[wafer-9]" in said


@pytest.mark.parametrize(
    ("was", "is_now", "pattern"),
    [
        ('architecture = "decoder"\n', "", r"'architecture' is missing"),
        ("num_parameters = 99_999", "num_parameters = -1", r"num_parameters must be a positive number"),
        ("num_parameters", "num_params", r"no such field 'num_params'\. Known: .*config"),
        ('"llama", hidden', '"hyena", hidden', r"its config cannot be read: model_type 'hyena' .*\. Known: llama, "),
        ("num_attention_heads = 4, ", "", r"its config cannot be read: .*num_attention_heads"),
        ("hidden_size = 64", 'hidden_size = "big"', r"its config cannot be read: "),
        ("hidden_size = 64", "hidden_size = -64", r"its config cannot be read: .*hidden_size"),
        ('"decoder"', '"encoder"', r"architecture is 'encoder', but a llama is 'decoder'"),
    ],
)  # fmt: skip
def test_a_wrong_llm_is_refused(tmp_path: Path, was: str, is_now: str, pattern: str) -> None:
    assert was in MODEL
    folder = folder_of(tmp_path / "mine", llms=MODEL.replace(was, is_now))
    said = said_of(folder)
    assert said.startswith(f"{folder / 'llms.toml'} [tiny-llama]: ")
    assert re.search(pattern, said), said


@pytest.mark.parametrize(
    ("was", "is_now", "pattern"),
    [
        ("usd_per_device_hour = 1.25\n", "", r"'usd_per_device_hour' is missing"),
        ("1.25", "-1.25", r"usd_per_device_hour must be a positive number"),
        ('"wafer-9"', '"a600"', r"hardware_id 'a600' is not in the hardware catalogue\. Known: a6000, "),
    ],
)  # fmt: skip
def test_a_wrong_price_is_refused(tmp_path: Path, was: str, is_now: str, pattern: str) -> None:
    assert was in PRICE
    folder = folder_of(tmp_path / "mine", hardware=DEVICE, prices=PRICE.replace(was, is_now))
    said = said_of(folder)
    assert said.startswith(f"{folder / 'prices.toml'} [ours-wafer]: ")
    assert re.search(pattern, said), said


def test_a_refused_folder_leaves_the_one_before(folder: Path, tmp_path: Path) -> None:
    catalog.extend(folder)
    with pytest.raises(catalog.CatalogError):
        catalog.extend(tmp_path / "absent")
    assert os.environ[catalog.USER_FOLDER] == str(folder)
    assert "wafer-9" in catalog.hardware()


# -- prices


def test_price_is_the_cheapest_offer() -> None:
    offers = [row for row in catalog.rows("prices") if row["hardware_id"] == "h100-sxm"]
    assert len(offers) > 1
    cheapest = catalog.price("h100-sxm")
    assert cheapest is not None
    assert cheapest["usd_per_device_hour"] == min(row["usd_per_device_hour"] for row in offers)
    assert catalog.price("core-i9-13900k") is None


def test_the_fields_of_an_llm_are_those_that_its_reader_takes() -> None:
    assert {*catalog._LLM_FIELDS, "aliases", "config"} == set(llm._ENTRY_FIELDS)
