"""What hadolint would say about a Dockerfile, for the rules that matter here, without a binary of its own.

Rules carry hadolint's numbers where it has one.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Instruction:
    """One instruction, its continued lines joined."""

    line: int
    name: str
    value: str


def parse(text: str) -> list[Instruction]:
    """Return the instructions of a Dockerfile, comments left out."""
    instructions: list[Instruction] = []
    joined, first = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if stripped.startswith("#") or not (stripped or joined):
            continue
        first = first or number
        joined += stripped.removesuffix("\\") + " "
        if stripped.endswith("\\"):
            continue
        name, _, value = joined.strip().partition(" ")
        instructions.append(Instruction(first, name.upper(), value.strip()))
        joined, first = "", 0
    return instructions


def commands(instruction: Instruction) -> list[list[str]]:
    """Return the shell commands of a RUN instruction, split into words, mounts left out."""
    shell = re.sub(r"--mount=\S+", "", instruction.value)
    return [shlex.split(command) for command in re.split(r"&&|;|\|\|?", shell) if command.strip()]


def problems(text: str) -> list[str]:
    """Return what is wrong, as ``<rule> line <line>: <what>``."""
    instructions = parse(text)
    return [
        *_images(instructions),
        *_users(instructions),
        *_runs(instructions),
        *_forms(instructions),
    ]


def _images(instructions: list[Instruction]) -> Iterator[str]:
    stages = {"scratch"}
    for found in instructions:
        if found.name != "FROM":
            continue
        image, *rest = found.value.split()
        own_stage = image in stages or any(
            re.fullmatch(re.sub(r"\$\{?\w+\}?", r"\\w+", image), stage) for stage in stages
        )
        if not own_stage:
            tag = image.rpartition("/")[2].partition(":")[2]
            if not tag:
                yield f"DL3006 line {found.line}: {image} has no tag"
            elif tag == "latest":
                yield f"DL3007 line {found.line}: {image} moves"
            elif not (re.search(r"\d+\.\d+\.\d+", tag) or "@sha256:" in image):
                yield f"pinned line {found.line}: {image} names no patch release"
        if len(rest) == 2 and rest[0].upper() == "AS":
            stages.add(rest[1])


def _users(instructions: list[Instruction]) -> Iterator[str]:
    """The last stage, or the stage it is built on, ends as somebody else than root."""
    user_of: dict[str, str] = {}
    image, alias, user = "", "", "root"
    for found in instructions:
        if found.name == "FROM":
            image, *rest = found.value.split()
            alias = rest[1] if len(rest) == 2 else ""
            pattern = re.sub(r"\$\{?\w+\}?", r"\\w+", image)
            parents = {user_of[stage] for stage in user_of if re.fullmatch(pattern, stage)} or {"root"}
            user = "root" if "root" in parents else parents.pop()
        elif found.name == "USER":
            user = found.value.partition(":")[0]
        if alias:
            user_of[alias] = user
    if user in ("root", "0"):
        yield "DL3002 the image runs as root"


def _runs(instructions: list[Instruction]) -> Iterator[str]:
    for found in instructions:
        if found.name != "RUN":
            continue
        if "sudo" in found.value.split():
            yield f"DL3004 line {found.line}: sudo"
        if "apt-get" in found.value or re.search(r"\bapt\b", found.value):
            yield from _apt(found)
        for words in commands(found):
            if words[:2] == ["pip", "install"]:
                if "--no-cache-dir" not in words:
                    yield f"DL3042 line {found.line}: pip keeps its cache in the image"
                packages = [word for word in words[2:] if not word.startswith("-")]
                if any("==" not in package for package in packages):
                    yield f"DL3013 line {found.line}: pip installs without a version"
            if words[0] == "cd":
                yield f"DL3003 line {found.line}: use WORKDIR"
            if words[0] in ("curl", "wget"):
                yield f"download line {found.line}: nothing is downloaded but packages"


def _apt(found: Instruction) -> Iterator[str]:
    if re.search(r"\bapt (install|update)", found.value):
        yield f"DL3027 line {found.line}: apt is for people, use apt-get"
    if "rm -rf /var/lib/apt/lists" not in found.value:
        yield f"DL3009 line {found.line}: the lists of apt-get stay in the image"
    if "apt-get install" in found.value and "--no-install-recommends" not in found.value:
        yield f"DL3015 line {found.line}: recommended packages come along"
    if "apt-get install" in found.value and not re.search(r"\s(-\w*y\w*|--yes)\b", found.value):
        yield f"DL3014 line {found.line}: apt-get asks"


def _forms(instructions: list[Instruction]) -> Iterator[str]:
    for found in instructions:
        if found.name in ("CMD", "ENTRYPOINT") and not found.value.startswith("["):
            yield f"DL3025 line {found.line}: signals do not reach a shell's child"
        if found.name == "ADD":
            yield f"DL3020 line {found.line}: COPY says what it does"
        if found.name == "WORKDIR" and not found.value.startswith(("/", "$")):
            yield f"DL3000 line {found.line}: WORKDIR is relative"
        if found.name == "MAINTAINER":
            yield f"DL4000 line {found.line}: MAINTAINER is no more"
        if found.name in ("ENV", "ARG") and re.search(r"(PASSWORD|SECRET|TOKEN)\w*=\S", found.value):
            yield f"secret line {found.line}: a secret stays in the image"
    if not any(found.name == "HEALTHCHECK" for found in instructions):
        yield "DL3057 there is no HEALTHCHECK"
