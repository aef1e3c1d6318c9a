"""What the repository promises as a whole: pins, packaging, first commands, and what must never be in it."""

from __future__ import annotations

import importlib
import platform
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
LARGEST_BYTES = 500_000
IMAGES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".ico"}

OF_A_CUDA_BUILD = ("nvidia-", "cuda-", "triton")
"""Packages that only torch's GPU wheel brings; it pins them exactly itself."""
OF_AN_OLDER_PATCH = {"async-timeout"}
"""redis asks for it below Python 3.11.3; Debian 12 has 3.11.2."""

# written so that no pattern matches itself
NEVER = {
    "an address of a package registry": (
        r"pypi\.org|pythonhosted\.org|download\.pytorch\.org|conda\.anaconda\.org|--(?:extra-)?index-url|--find[-]links"
    ),
    "an absolute path of somebody's machine": r"(?<![\w.}/-])/(?:work|root|home|Users)/",
    "a paper by its working number": r"(?i)seed[ _-]?0[0-9]",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "an access key": (
        r"\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36}\b|\bsk-[A-Za-z0-9_-]{32,}|\bhf_[A-Za-z0-9]{30,}\b"
        r"|\bxox[baprs]-[0-9A-Za-z-]{10,}|\bAIza[0-9A-Za-z_-]{35}"
    ),
}


@pytest.fixture(scope="session")
def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout: there is no list of tracked files")
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


@pytest.fixture(scope="session")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("what", NEVER)
def test_no_tracked_file_holds(what: str, tracked: list[Path]) -> None:
    pattern = re.compile(NEVER[what])
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}"
        for path in tracked
        if path.suffix not in IMAGES
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if pattern.search(line)
    ]
    assert not found, f"{what}:\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("an address of a package registry", "pip install --index" + "-url https://example.org/simple rooflake"),
        ("an absolute path of somebody's machine", "open('" + "/home" + "/ada/rows.parquet')"),
        ("a paper by its working number", "as " + "seed" + " 003 says"),
        ("a private key", "-----BEGIN RSA " + "PRIVATE KEY-----"),
        ("an access key", "AKIA" + "ABCDEFGHIJKLMNOP"),
    ],
)
def test_the_patterns_find_what_they_are_for(what: str, line: str) -> None:
    assert re.search(NEVER[what], line)


def test_no_tracked_file_is_large(tracked: list[Path]) -> None:
    large = {
        str(path.relative_to(ROOT)): path.stat().st_size
        for path in tracked
        if path.suffix not in IMAGES and path.stat().st_size > LARGEST_BYTES
    }
    assert not large, f"Larger than {LARGEST_BYTES} bytes: make it smaller, or make it where it is needed: {large}"


def test_no_generated_or_local_file_is_tracked(tracked: list[Path]) -> None:
    names = [path.relative_to(ROOT).as_posix() for path in tracked]
    assert [name for name in names if re.search(r"\.(pyc|duckdb|sqlite|log)$|(^|/)(\.venv|rooflake-data)/", name)] == []


def pins() -> dict[str, str]:
    """Distribution -> version of constraints.txt."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^([^#=\s]+)==(\S+)$", text, re.MULTILINE))


def test_constraints_are_exact_pins_without_addresses() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line)] == []
    assert list(pins()) == sorted(pins())


@pytest.mark.skipif(
    (sys.platform, platform.machine(), sys.version_info[:2]) != ("linux", "x86_64", (3, 11)),
    reason="the pins were resolved on CPython 3.11, Linux x86-64; elsewhere other packages come in",
)
def test_constraints_pin_what_dev_pulls_in_and_nothing_else(project: dict[str, Any]) -> None:
    pinned = pins()
    # a build tag such as +cpu is not part of the pin
    needed = {name: metadata.version(name).partition("+")[0] for name in needed_for("dev", project)}
    wanted = [
        f"{name}=={version}"
        for name, version in sorted(needed.items())
        if pinned.get(name) != version and not (name not in pinned and name.startswith(OF_A_CUDA_BUILD))
    ]
    assert not wanted, "Put these lines into constraints.txt (or run `make setup`):\n" + "\n".join(wanted)
    unused = sorted(set(pinned) - set(needed) - OF_AN_OLDER_PATCH)
    assert not unused, f"Nothing needs these pins of constraints.txt: {unused}"


def needed_for(extra: str, project: dict[str, Any]) -> set[str]:
    """Names of every distribution that `rooflake[extra]` pulls in on this machine, itself excluded."""
    visited: set[tuple[str, str]] = set()

    def visit(requirement: Requirement) -> None:
        name = canonicalize_name(requirement.name)
        for chosen in ("", *requirement.extras):
            if (name, chosen) not in visited:
                visited.add((name, chosen))
                for child in children(name, chosen):
                    visit(child)

    def children(name: str, chosen: str) -> Iterator[Requirement]:
        own = project["project"]
        if name == own["name"]:
            lines = own["optional-dependencies"][chosen] if chosen else own["dependencies"]
        else:
            lines = metadata.requires(name) or []
        for requirement in map(Requirement, lines):
            if requirement.marker is None or requirement.marker.evaluate({"extra": chosen}):
                yield requirement

    visit(Requirement(f"{project['project']['name']}[{extra}]"))
    return {name for name, _ in visited} - {project["project"]["name"]}


def test_the_lowest_versions_of_pyproject_allow_the_pins(project: dict[str, Any]) -> None:
    pinned = pins()
    own = project["project"]
    lines = [*own["dependencies"], *(line for extra in own["optional-dependencies"].values() for line in extra)]
    requirements = [requirement for requirement in map(Requirement, lines) if requirement.name != own["name"]]
    refused = [str(item) for item in requirements if pinned[canonicalize_name(item.name)] not in item.specifier]
    assert not refused


def test_the_console_script_leads_to_a_function_and_runs(project: dict[str, Any]) -> None:
    module, _, function = project["project"]["scripts"]["rooflake"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))
    script = Path(sys.executable).with_name("rooflake")
    done = subprocess.run([script, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "demo" in done.stdout


def test_every_data_file_of_a_package_is_in_the_wheel(project: dict[str, Any], tracked: list[Path]) -> None:
    globs = project["tool"]["setuptools"]["package-data"]
    packed = {path for room, patterns in globs.items() for pattern in patterns for path in (ROOT / room).glob(pattern)}
    data = {
        path
        for path in tracked
        if path.relative_to(ROOT).parts[0] in globs and path.suffix != ".py" and path.name != ".gitkeep"
    }
    missing = sorted(str(path.relative_to(ROOT)) for path in data - packed)
    assert not missing, f"Name them under [tool.setuptools.package-data] of pyproject.toml: {missing}"


def test_readme_shows_the_two_commands_early() -> None:
    first = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:39]
    assert any("make run" in line for line in first), "README.md must show `make run` before line 40"
    assert any("make test" in line for line in first), "README.md must show `make test` before line 40"


def test_changelog_has_an_unreleased_section() -> None:
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()


def test_licence_is_the_whole_apache_text(project: dict[str, Any]) -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert project["project"]["license"] == "Apache-2.0"
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_make_offers_what_the_documents_promise() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z%-]+):", makefile, re.MULTILINE))
    assert {"help", "setup", "run", "test", "lint", "bench", "bench-%", "docs", "clean"} <= targets
    promised = {
        target
        for document in ROOT.glob("*.md")
        for target in re.findall(r"`make ([a-z-]+)[ `]", document.read_text(encoding="utf-8"))
    }
    unknown = [target for target in promised if target not in targets and not target.startswith("bench-")]
    assert not unknown, f"A document names make targets that do not exist: {unknown}"


def test_ci_script_can_be_executed() -> None:
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
