"""Which code runs: the commit, what was edited since, and a hash of the library's own sources.

The difference to a commit is what ``git diff`` says, with untracked files as new ones. Git is only asked:
index and objects of the checkout stay as they are. Outside a checkout (an image, say) the commit is what the
image was built from, and only the hash of the sources tells whether code is the same.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess  # nosec B404  # asks git, without a shell
import tempfile
from collections import Counter
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict

from nightshift.settings import settings

UNKNOWN = "unknown"
CLEAN = "clean"
DIFF_LIMIT = 1_000_000
"""Characters of a difference that a manifest keeps; its hash covers all of it."""
_FILE_LIMIT = 1_000_000
_SOURCES = Path(__file__).resolve().parents[1]
# Of it, what a training runs through; of the others' edits no model becomes another one.
_ROOMS = ("lake", "registry", "training")
_FILE = re.compile(r"^diff --git .*$", re.M)


class Code(BaseModel):
    """The code of a training.

    Attributes:
        commit: Hash of the commit, or ``unknown``.
        branch: Name of the branch; None on a commit without one.
        remote: URL of the remote ``origin``, without user, password and query.
        diff_hash: SHA-256 of the difference to the commit, untracked files included; ``clean`` without one.
        diff: Its text, at most ``DIFF_LIMIT`` characters. Of binary files only the hashes.
        diff_characters: How long the whole text is.
        large_files: Untracked files of more than 1 MB, with their SHA-256: not in the text, but in the hash.
        sources_hash: SHA-256 of the modules of the library that a training runs through.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    commit: str
    branch: str | None
    remote: str | None
    diff_hash: str
    diff: str
    diff_characters: int
    large_files: dict[str, str]
    sources_hash: str


def describe(project: Path) -> Code:
    """Return the code of the checkout in ``project`` and of this process."""
    commit = _line(project, "rev-parse", "HEAD")
    difference = diff_to(project, commit) if commit else None
    text, large = difference or ("", {})
    remote = _line(project, "remote", "get-url", "origin")
    return Code(
        commit=commit or settings().commit or UNKNOWN,
        branch=_line(project, "symbolic-ref", "--short", "HEAD"),
        remote=_without_credentials(remote) if remote else None,
        diff_hash=diff_hash(text, large) if difference else UNKNOWN,
        diff=text[:DIFF_LIMIT],
        diff_characters=len(text),
        large_files=large,
        sources_hash=_sources_hash(),
    )


def diff_to(project: Path, commit: str) -> tuple[str, dict[str, str]] | None:
    """Return how the files of a checkout differ from a commit, and large untracked files with their hashes.

    None when the checkout does not know the commit.
    """
    index = _line(project, "rev-parse", "--git-path", "index")
    objects = _line(project, "rev-parse", "--git-path", "objects")
    if not index or not objects or _git(project, "cat-file", "-e", f"{commit}^{{commit}}") is None:
        return None
    large = _large_files(project)
    with tempfile.TemporaryDirectory() as scratch:
        # Announced to a copy of the index, untracked files are part of the difference.
        own = Path(scratch) / "index"
        if (project / index).is_file():
            shutil.copyfile(project / index, own)
        variables = {
            "GIT_INDEX_FILE": str(own),
            "GIT_OBJECT_DIRECTORY": scratch,
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": str((project / objects).resolve()),
        }
        without = [f":(exclude,top,literal){name}" for name in large]
        _git(project, "add", "--intent-to-add", "--", ":(top)", *without, variables=variables)
        options = ("--no-color", "--no-ext-diff", "--no-textconv", "--no-renames", "--full-index")
        text = _git(project, "diff", *options, commit, "--", ":(top)", *without, variables=variables)
    return None if text is None else (text.decode("utf-8", "replace"), large)


def diff_hash(text: str, large_files: dict[str, str]) -> str:
    """Return the SHA-256 of a difference, ``CLEAN`` for none."""
    if not text and not large_files:
        return CLEAN
    digest = hashlib.sha256(text.encode())
    for name, content in sorted(large_files.items()):
        digest.update(f"\0{name}\0{content}".encode())
    return digest.hexdigest()


def changed_lines(recorded: str, current: str) -> dict[str, int]:
    """Return by file how many lines differ between two differences to the same commit.

    A line that was edited counts twice: as it was, and as it is. Files whose bytes differ without lines
    (binary ones) count 0.
    """
    before, after = _by_file(recorded), _by_file(current)
    changed = {}
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name, ""), after.get(name, "")
        if old != new:
            lines = _edits(old), _edits(new)
            changed[name] = ((lines[0] - lines[1]) + (lines[1] - lines[0])).total()
    return changed


def _by_file(text: str) -> dict[str, str]:
    starts = [found.start() for found in _FILE.finditer(text)]
    sections = [text[start:end] for start, end in pairwise([*starts, len(text)])]
    # "diff --git a/<name> b/<name>", in quotes where a name has unusual characters.
    return {_name(section.partition("\n")[0].removeprefix("diff --git ")): section for section in sections}


def _name(both: str) -> str:
    half = both[: len(both) // 2].strip()
    return half.strip('"').removeprefix("a/")


def _edits(section: str) -> Counter[str]:
    hunks = section.partition("\n@@")[2]
    return Counter(line for line in hunks.splitlines() if line[:1] in ("+", "-"))


def _large_files(project: Path) -> dict[str, str]:
    listed = _git(project, "ls-files", "--others", "--exclude-standard", "--full-name", "-z", "--", ":(top)")
    top = Path(_line(project, "rev-parse", "--show-toplevel") or project)
    found = {}
    for name in filter(None, (listed or b"").split(b"\0")):
        file = top / os.fsdecode(name)
        if file.is_file() and file.stat().st_size > _FILE_LIMIT:
            with file.open("rb") as stream:
                found[os.fsdecode(name)] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found


def runs_in_training(name: str) -> bool:
    """Return whether a file of the checkout, named from its top, is one that ``sources_hash`` covers."""
    room, _, file = name.removeprefix("include/nightshift/").rpartition("/")
    inside = name.startswith("include/nightshift/") and file.endswith(".py")
    return inside and (not room or room.partition("/")[0] in _ROOMS)


def _sources_hash() -> str:
    digest = hashlib.sha256()
    files = [*_SOURCES.glob("*.py"), *(file for room in _ROOMS for file in (_SOURCES / room).rglob("*.py"))]
    for file in sorted(files):
        digest.update(f"{file.relative_to(_SOURCES).as_posix()}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()


def _without_credentials(remote: str) -> str:
    if "://" not in remote:
        return remote
    parts = urlsplit(remote)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _line(project: Path, *arguments: str) -> str | None:
    answer = _git(project, *arguments)
    return answer.decode("utf-8", "replace").strip() or None if answer is not None else None


def _git(project: Path, *arguments: str, variables: dict[str, str] | None = None) -> bytes | None:
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C", **(variables or {})}
    try:
        done = subprocess.run(  # nosec B603, B607  # no shell; the PATH's git
            ["git", "-C", str(project), *arguments],
            capture_output=True,
            check=True,
            timeout=60,
            env=environment,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
