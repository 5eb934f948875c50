"""What made a model: code, environment, hardware and configuration, as far as this machine can tell."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from nightshift.settings import settings
from nightshift.usecase import UseCase

UNKNOWN = "unknown"
_LIBRARIES = ("numpy", "pyarrow", "scikit-learn", "scipy", "torch", "xgboost")


def provenance(uc: UseCase, *, device: str) -> dict[str, Any]:
    """Return code, environment, hardware, configuration and seed as JSON-able values.

    Outside a Git checkout (an image, say) commit and difference are ``"unknown"``.
    """
    project = settings().project
    return {
        "code": _code(project),
        "environment": {
            "lock_hash": _file_hash(project / "constraints.txt"),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "libraries": {name: importlib.metadata.version(name) for name in _LIBRARIES},
        },
        "hardware": {
            "machine": platform.machine(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "device": device,
        },
        "configuration": uc.model_dump(mode="json"),
        "seeds": {"training": uc.training.seed},
    }


def _code(project: Path) -> dict[str, str]:
    commit = _git(project, "rev-parse", "HEAD")
    if commit is None:
        return {"commit": UNKNOWN, "diff_hash": UNKNOWN}
    digest = hashlib.sha256(_git(project, "diff", "HEAD", "--binary") or b"")
    for name in sorted(
        (_git(project, "ls-files", "--others", "--exclude-standard", "-z") or b"").split(b"\0")
    ):
        file = project / os.fsdecode(name)
        if name and file.is_file():
            digest.update(name + b"\0" + file.read_bytes())
    clean = not _git(project, "status", "--porcelain")
    return {
        "commit": commit.decode().strip(),
        "diff_hash": "clean" if clean else digest.hexdigest(),
    }


def _git(project: Path, *arguments: str) -> bytes | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(project), *arguments], capture_output=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def _file_hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else UNKNOWN


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or UNKNOWN
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), UNKNOWN)
