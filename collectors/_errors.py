"""Which errors are sentences for the user, and what is said where nothing can be landed."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from warehouse import catalog

OF_A_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
"""What only writing meets; the errors of an open file name none."""


def is_sentence(error: BaseException) -> bool:
    """Whether an error says by itself what was asked and why not; a KeyError or IndexError of a program does not."""
    if isinstance(error, KeyError | IndexError):
        return isinstance(error, catalog.UnknownEntryError)
    return isinstance(error, LookupError | ValueError | OSError)


@contextlib.contextmanager
def explained(landing: Path) -> Iterator[None]:
    """An OSError of a landing folder comes out as a sentence; any other as it is."""
    try:
        yield
    except OSError as error:
        if error.errno in OF_A_DISK or _is_on_the_way(error.filename, landing):
            raise OSError(
                f"Nothing could be landed in '{landing}': {error.strerror or error}. Give another folder with --landing; "
                "what landed before is whole."
            ) from error
        raise


def _is_on_the_way(name: object, landing: Path) -> bool:
    """Whether a file is the folder, lies in it or leads to it."""
    if not isinstance(name, str | os.PathLike):
        return False
    path, folder = Path(os.path.abspath(name)), Path(os.path.abspath(landing))
    return path.is_relative_to(folder) or folder.is_relative_to(path)
