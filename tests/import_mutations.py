"""Broken copies of result files, and what an importer must do with them. Run it to fuzz: see `--help`.

An importer answers every file either with runs or with one sentence that names the file, and lands nothing with a sentence.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from collectors import _importing

SAID = {"hardware_id": "h100-sxm", "settings": ["phase=serve"]}
MAX_BYTES = 400_000
"""Larger samples are cut to this before they are mutated: a fuzzer lives on many small files."""

STRANGE: tuple[Any, ...] = (
    None, "", "x", "1e5", -1, 0, 1e308, 10**25, 0.5, True, [], {}, [[]], {"a": 1}, [1, 2], float("nan"), float("inf"), "\ud800",
    "12,5", "2026-13-45T99:99:99Z", ["a"], {"mean": "x"}, -0.0,
)  # fmt: skip


def content(path: Path) -> bytes:
    """Bytes of a sample, unpacked."""
    raw = path.read_bytes()
    return gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the values of a JSON value are; of long lists the first few."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:4]) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def changed(value: Any, path: tuple[Any, ...], new: Any = ..., *, is_removed: bool = False) -> Any:
    """A copy of a JSON value with one place changed or removed."""
    key, *rest = path
    copied = dict(value) if isinstance(value, dict) else list(value)
    if rest:
        copied[key] = changed(copied[key], tuple(rest), new, is_removed=is_removed)
    elif is_removed:
        del copied[key]
    else:
        copied[key] = new
    return copied


def mutated(original: bytes, chance: random.Random) -> bytes:
    """One broken copy: bytes cut, flipped, doubled or replaced; or one value of a JSON document made strange or removed."""
    kind = chance.randrange(8)
    if kind <= 4:
        lines = original.split(b"\n")
        parsed = _json(original)
        index = None
        if parsed is None and len(lines) > 1:
            index = chance.randrange(min(len(lines), 20))
            parsed = _json(lines[index])
        found = list(places(parsed)) if parsed is not None else []
        if found:
            path = chance.choice(found)
            new = changed(parsed, path, chance.choice(STRANGE), is_removed=kind == 4)
            text = json.dumps(new).encode("utf-8", "surrogatepass")
            return text if index is None else b"\n".join([*lines[:index], text, *lines[index + 1 :]])
        return _changed_cell(lines, chance)
    at = chance.randrange(len(original) + 1)
    if kind == 5:
        return original[:at]
    if kind == 6:
        return original[:at] + bytes(chance.randrange(256) for _ in range(chance.randrange(1, 9))) + original[at + 4 :]
    return original[:at] + original[max(0, at - 200) : at] + original[at:]


def _changed_cell(lines: list[bytes], chance: random.Random) -> bytes:
    """A table with one cell made strange."""
    row = chance.randrange(min(len(lines), 30))
    separator = b"\t" if b"\t" in lines[row] else b"," if b"," in lines[row] else b" "
    cells = lines[row].split(separator)
    cells[chance.randrange(len(cells))] = str(chance.choice(STRANGE)).encode("utf-8", "replace")
    return b"\n".join([*lines[:row], separator.join(cells), *lines[row + 1 :]])


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def outcome(name: str, data: bytes, tool: str | None, **said: Any) -> str | None:
    """Import bytes as a file: None where runs landed, else the sentence. Raises AssertionError for any other end."""
    with tempfile.TemporaryDirectory() as folder:
        file, landing = Path(folder, name), Path(folder, "landing")
        file.write_bytes(data)
        try:
            collected = _importing.collect(landing, files=[file], tool=tool, **(SAID | said))
        except _importing.Unreadable as error:
            sentence = str(error)
            assert name in sentence, sentence
            assert not list(landing.rglob("*.parquet")), sentence
            return sentence
        assert collected.num_runs > 0
        return None


def samples(folders: list[Path]) -> list[tuple[Path, str]]:
    """Sample files that an importer recognises, with its tool."""
    found = []
    for path in sorted(path for folder in folders for path in folder.rglob("*") if path.is_file()):
        try:
            found.append((path, _importing.importer(_importing.File(path)).TOOL))
        except _importing.Unreadable:
            continue
    return found


def main() -> int:
    """Fuzz for so many seconds of processor time; prints every end that is neither runs nor a sentence, once a place."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="folders with sample files")
    parser.add_argument("--cpu-s", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the files that broke something")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))
    chance = random.Random(options.seed)
    known = samples(options.folders)
    seen: dict[str, int] = {}
    count = 0
    while time.process_time() < options.cpu_s:
        path, tool = chance.choice(known)
        data = content(path)[:MAX_BYTES] if path.suffix != ".parquet" else path.read_bytes()
        data = mutated(data, chance)
        count += 1
        signal.alarm(60)
        try:
            outcome(path.name.removesuffix(".gz"), data, tool)
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{tool}: {type(error).__name__} at {os.path.basename(frame.filename)}:{frame.lineno}: {str(error)[:200]}"
            key = f"{tool} {frame.filename} {frame.lineno}"
            if key not in seen:
                sys.stdout.write(place + "\n")
                if options.keep:
                    options.keep.mkdir(parents=True, exist_ok=True)
                    (options.keep / f"{len(seen)}-{tool}-{path.name.removesuffix('.gz')}").write_bytes(data)
            seen[key] = seen.get(key, 0) + 1
        signal.alarm(0)
    sys.stdout.write(f"{count} files, {len(known)} samples, {len(seen)} places broke, {sum(seen.values())} times\n")
    return 1 if seen else 0


if __name__ == "__main__":
    sys.exit(main())
