# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""How commands print, and checks that their output files and folders can be written before they do any work."""

from __future__ import annotations

import sys
import tempfile
from contextlib import AbstractContextManager
from pathlib import Path

from rich.console import Console

from policy_node.config.warning import warnings_to

# In a cell without a value.
NOTHING = "–"
# A file or a pipe has no width.
_FILE_WIDTH = 160


def make_console() -> Console:
    """Return the console of the standard output."""
    return Console(width=None if sys.stdout.isatty() else _FILE_WIDTH, highlight=False)


def warnings_as_lines(program: str, console: Console) -> AbstractContextManager[None]:
    """Print each warning within the context as a line ``program: warning: text``."""
    return warnings_to(
        lambda text: console.print(f"{program}: warning: {text}", markup=False, highlight=False, soft_wrap=True)
    )


def check_file(option: str, file: Path, suffix: str = "") -> None:
    """Check that a file can be written, without changing it; create its folder.

    Raises
    ------
    SystemExit
        When the file cannot be written, or its name has another suffix; names the option.
    """
    if suffix and file.suffix.lower() != suffix:
        raise SystemExit(f"{option}: found '{file}', allowed is a name that ends in {suffix}; change the name")
    existed = file.is_symlink() or file.exists()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.open("ab").close()
    except OSError as error:
        raise SystemExit(
            f"{option}: found '{file}', which cannot be written ({error.strerror}); give a file in a writable folder"
        ) from error
    if not existed:
        file.unlink()


def check_folder(option: str, folder: Path) -> None:
    """Create a folder where it is missing, and check that files can be written into it.

    Raises
    ------
    SystemExit
        When the folder cannot be created or written into; names the option.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise SystemExit(
            f"{option}: found '{folder}', which cannot be written into ({error.strerror}); give a writable folder"
        ) from error
