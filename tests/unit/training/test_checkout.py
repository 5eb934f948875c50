"""What git says of a checkout is told in full, up to stated limits, and the checkout stays as it is."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from nightshift.training import checkout


def _git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=tests", "-c", "user.email=tests@example.com")
    done = subprocess.run(  # nosec B607  # the PATH's git
        ["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    _git(tmp_path, "init", "--quiet", "--initial-branch", "trunk")
    (tmp_path / "kept.py").write_text("one\ntwo\nthree\n")
    (tmp_path / ".gitignore").write_text("secret\n")
    _git(tmp_path, "add", "--all")
    _git(tmp_path, "commit", "--quiet", "--message", "all")
    return tmp_path


def test_edits_and_new_files_are_told_and_ignored_ones_are_not(project: Path) -> None:
    clean = checkout.describe(project)
    assert (clean.branch, clean.diff_hash, clean.remote) == ("trunk", checkout.CLEAN, None)
    (project / "kept.py").write_text("one\n2\nthree\n")
    (project / "new folder").mkdir()
    (project / "new folder" / "fresh.py").write_text("first\nsecond\n")
    (project / "secret").write_text("password\n")
    objects, status = sorted((project / ".git").rglob("*")), _git(project, "status", "--porcelain")
    index = (project / ".git" / "index").read_bytes()
    edited = checkout.describe(project)
    assert "+2\n" in edited.diff
    assert "+second\n" in edited.diff
    assert "password" not in edited.diff
    assert edited.diff_hash not in (checkout.CLEAN, checkout.UNKNOWN)
    assert checkout.changed_lines(clean.diff, edited.diff) == {"kept.py": 2, "new folder/fresh.py": 2}
    assert sorted((project / ".git").rglob("*")) == objects
    assert (project / ".git" / "index").read_bytes() == index
    assert _git(project, "status", "--porcelain") == status
    # Committed, the same content is no difference to the commit before it but the one that was recorded.
    _git(project, "add", "--all")
    _git(project, "commit", "--quiet", "--message", "edited")
    difference = checkout.diff_to(project, clean.commit)
    assert difference is not None
    assert checkout.diff_hash(*difference) == edited.diff_hash


def test_lines_are_counted_between_two_edits_of_one_commit(project: Path) -> None:
    (project / "kept.py").write_text("one\n2\nthree\n")
    before = checkout.describe(project)
    (project / "kept.py").write_text("one\n2\nthree\nfour\n")
    after = checkout.describe(project)
    assert checkout.changed_lines(before.diff, after.diff) == {"kept.py": 1}
    assert checkout.changed_lines(before.diff, before.diff) == {}


def test_the_text_is_cut_and_large_files_are_hashed(project: Path) -> None:
    (project / "many.txt").write_text("line\n" * 190_000)
    (project / "large.bin").write_bytes(b"\0" * 1_000_001)
    found = checkout.describe(project)
    assert len(found.diff) == checkout.DIFF_LIMIT < found.diff_characters
    assert list(found.large_files) == ["large.bin"]
    (project / "large.bin").write_bytes(b"\1" * 1_000_001)
    assert checkout.describe(project).diff_hash != found.diff_hash


@pytest.mark.parametrize(
    ("remote", "shown"),
    [
        # pragma: allowlist nextline secret
        ("https://user:hidden@code.example/a/b.git", "https://code.example/a/b.git"),
        ("https://hidden@code.example:8443/a.git?token=hidden", "https://code.example:8443/a.git"),
        ("ssh://git@code.example/a.git", "ssh://code.example/a.git"),
        ("git@code.example:a/b.git", "git@code.example:a/b.git"),
    ],
)
def test_a_remote_is_told_without_its_password(project: Path, remote: str, shown: str) -> None:
    _git(project, "remote", "add", "origin", remote)
    assert checkout.describe(project).remote == shown


def test_outside_a_checkout_the_sources_still_tell(tmp_path: Path, project: Path) -> None:
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    found = checkout.describe(outside)
    assert (found.commit, found.diff_hash) == (checkout.UNKNOWN, checkout.UNKNOWN)
    assert found.sources_hash == checkout.describe(project).sources_hash
    assert checkout.diff_to(project, "0" * 40) is None
