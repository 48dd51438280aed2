# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Whether files and folders that a command line names can be written, found out before any work is done."""

from __future__ import annotations

import tempfile
from pathlib import Path


def check_file(option: str, file: Path, suffix: str = "") -> None:
    """Try whether a file can be written, which is left as it was; the folder that it needs is made.

    Parameters
    ----------
    option
        That names the file, with the command before it where there is one.
    file
        To be written later.
    suffix
        With which its name has to end.

    Raises
    ------
    SystemExit
        When it cannot be written, or its name ends otherwise.
    """
    if file.suffix.lower() != suffix and suffix:
        raise SystemExit(f"{option}: found '{file}', allowed is a name that ends in {suffix}; give such a one")
    existed = file.is_symlink() or file.exists()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.open("ab").close()
    except OSError as error:
        raise SystemExit(
            f"{option}: found '{file}', which cannot be written ({error.strerror}); give a file in a folder that can"
        ) from error
    if not existed:
        file.unlink()


def check_folder(option: str, folder: Path) -> None:
    """Make a folder where it is missing, and try whether files can be written there.

    Parameters
    ----------
    option
        That names the folder, with the command before it where there is one.
    folder
        To be written into later.

    Raises
    ------
    SystemExit
        When it cannot be made or written into.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise SystemExit(
            f"{option}: found '{folder}', which cannot be written into ({error.strerror}); give a folder that can"
        ) from error
