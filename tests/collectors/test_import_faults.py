"""Every sample file broken in the ways files break: one sentence that names the file, and nothing lands."""

from __future__ import annotations

import json
import os
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import import_mutations
import pytest
from import_mutations import content, outcome, samples

from collectors import _importing

FIXTURES = Path(__file__).parent / "data"
KNOWN = samples([FIXTURES])
SHARED = Path(os.environ.get("ROOFLAKE_SHARED", Path(__file__).parents[3] / "shared")) / "data"
"""Public samples, where they are: pytest names a test for each when it collects."""

FORMATS = samples([SHARED / "formats"])


def named(cases: list[tuple[Path, str]]) -> list[Any]:
    return [pytest.param(path, tool, id=f"{tool}/{path.name}") for path, tool in cases]


ABSENT = pytest.mark.skip(reason=f"'{SHARED}' is not there: set ROOFLAKE_SHARED")
EVERY = named(KNOWN + FORMATS) + ([] if FORMATS else [pytest.param(Path(), "", id="shared", marks=ABSENT)])


@pytest.mark.parametrize(("path", "tool"), EVERY)
def test_a_file_of_deep_brackets_is_one_sentence(path: Path, tool: str) -> None:
    for text in ("[" * 1_000_000, '{"a":' * 1_000_000):
        sentence = outcome(path.name.removesuffix(".gz"), text.encode(), tool)
        assert sentence is not None
        assert len(sentence) < 1000


@pytest.mark.parametrize(("path", "tool"), EVERY)
def test_a_file_cut_off_is_one_sentence_or_its_whole_lines(path: Path, tool: str) -> None:
    data = content(path)
    cut = data[: len(data) // 2].rstrip(b"\n}] ") if data[:4] != b"PAR1" else data[: len(data) // 2]
    sentence = outcome(path.name.removesuffix(".gz"), cut, tool)
    if data.lstrip()[:1] in (b"{", b"[") and len(data.splitlines()) > 1 and json_or_none(data) is not None:
        assert sentence is not None


@pytest.mark.parametrize(("path", "tool"), EVERY)
def test_an_empty_file_and_one_of_noise_are_one_sentence(path: Path, tool: str) -> None:
    noise = random.Random(7).randbytes(4096)
    for data in (b"", b"\n\n", b"\x00" * 100, noise, b"{}", b"[]", b"null", b"\xff\xfe" + "{}".encode("utf-16-le")):
        assert outcome(path.name.removesuffix(".gz"), data, tool) is not None


@pytest.mark.parametrize(("path", "tool"), EVERY)
def test_values_of_the_wrong_type_and_missing_keys_never_escape_as_a_traceback(path: Path, tool: str) -> None:
    chance = random.Random(f"{tool}/{path.name}")
    data = content(path)[: import_mutations.MAX_BYTES]
    for _ in range(12):
        outcome(path.name.removesuffix(".gz"), import_mutations.mutated(data, chance), tool)


def test_gzip_that_is_cut_off_or_claims_too_much_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, tool = next((path, tool) for path, tool in KNOWN if path.suffix == ".json")
    packed = zlib.compressobj(wbits=31)
    data = packed.compress(content(path)) + packed.flush()
    for broken in (data[: len(data) // 2], data[:-4] + struct.pack("<I", 2**31), data[:-8] + bytes(8)):
        assert outcome(path.name, broken, tool) is not None
    monkeypatch.setattr(_importing, "MAX_TEXT_BYTES", 1000)
    bomb = zlib.compressobj(wbits=31)
    assert "larger than" in str(outcome("bomb.json", bomb.compress(b" " * 10_000) + bomb.flush(), tool))


def test_a_parquet_header_that_claims_two_gigabytes_is_one_sentence() -> None:
    claimed = b"PAR1" + bytes(64) + struct.pack("<I", 2**31 - 1) + b"PAR1"
    sentence = outcome("table.parquet", claimed, "aiconfigurator")
    assert sentence is not None
    assert "table.parquet" in sentence


def test_a_file_that_names_no_hardware_is_refused_with_that_sentence() -> None:
    path, tool = next((path, tool) for path, tool in KNOWN if tool == "vllm")
    sentence = outcome(path.name, content(path), tool, hardware_id=None)
    assert sentence is not None
    assert sentence.startswith(f"{path.name} names no hardware. Give it with --hardware")


def test_of_several_files_the_good_ones_land(tmp_path: Path) -> None:
    path, _ = next((path, tool) for path, tool in KNOWN if tool == "vllm")
    bad = tmp_path / "bad.json"
    bad.write_text("{")
    with pytest.raises(_importing.Unreadable, match=r"^bad\.json"):
        _importing.collect(tmp_path / "landing", files=[bad, path], hardware_id="h100-sxm")
    assert list((tmp_path / "landing" / "runs").glob("*.parquet"))


def json_or_none(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None
