"""Passwords and keys, each generated once per state folder and readable by its owner alone."""

from __future__ import annotations

import base64
import os
import secrets
from contextlib import suppress
from pathlib import Path

from nightshift.settings import settings


def secret(name: str) -> str:
    """Return the secret called ``name``: 32 random bytes as URL-safe base64, generated on first use.

    Two processes that ask for a new secret at once get the same one.
    """
    file = secrets_folder() / name
    if not file.exists():
        draft = file.with_name(f".{name}.{os.getpid()}.{secrets.token_hex(4)}")
        write_private(draft, base64.urlsafe_b64encode(secrets.token_bytes(32)).decode())
        with suppress(FileExistsError):  # another process was first: its secret counts
            file.hardlink_to(draft)
        draft.unlink()
    return file.read_text(encoding="ascii")


def secrets_folder() -> Path:
    """Return the folder of secrets, created with mode 700."""
    folder = settings().home / "secrets"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def write_private(file: Path, content: str) -> None:
    """Write ``content`` to ``file`` with mode 600 from the first byte on."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(content)
