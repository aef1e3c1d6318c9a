"""What the cloud providers find out alike: names that go into an address, and regions."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping


def name(options: Mapping[str, str], option: str, *variables: str) -> str | None:
    """A project, region, endpoint...: the option, else the first of the environment variables that is set, else None.

    Raises ValueError for what no path or host name can carry, a lone `..` included.
    """
    found = options.get(option) or next((text for one in variables if (text := os.environ.get(one))), None)
    if found is not None and not re.fullmatch(r"(?!\.+\Z)[A-Za-z0-9][A-Za-z0-9._:-]{0,199}", found):
        raise ValueError(
            f"'{found[:60]}' is no {option} that an address can hold. Set it with --provider-options {option}=..."
        )
    return found


def needed(options: Mapping[str, str], option: str, *variables: str) -> str:
    """As `name`; raises ValueError where nothing says it."""
    found = name(options, option, *variables)
    if found is None:
        where = " or ".join([f"--provider-options {option}=...", *variables])
        raise ValueError(f"No {option} is named. Set it with {where}.")
    return found


def aws_region(options: Mapping[str, str]) -> str:
    """The AWS region. Raises ValueError where none is named."""
    return needed(options, "region", "AWS_REGION", "AWS_DEFAULT_REGION")
