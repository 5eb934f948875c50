"""The Dockerfile, as far as it can be judged without an engine to build it."""

from __future__ import annotations

import fnmatch
import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest
from dockerfile_rules import Instruction, commands, parse, problems

PROJECT = Path(__file__).resolve().parents[3]
DOCKERFILE = (PROJECT / "docker" / "Dockerfile").read_text(encoding="utf-8")
INSTRUCTIONS = parse(DOCKERFILE)
GOOD = """
FROM python:3.11.14-slim AS build
RUN pip install --no-cache-dir uv==1.0
FROM python:3.11.14-slim
HEALTHCHECK CMD ["true"]
USER 10001
CMD ["true"]
"""


def copies() -> list[str]:
    """Return every path that is copied from the checkout."""
    found: list[str] = []
    for instruction in INSTRUCTIONS:
        if instruction.name == "COPY" and "--from=" not in instruction.value:
            found += [word for word in instruction.value.split() if not word.startswith("--")][:-1]
    return found


def install_commands(text: str) -> list[list[str]]:
    """Return each ``uv pip install`` of a Dockerfile or Makefile, without what rightly differs.

    That is the place of the environment and the tools of development, which an image does not need.
    """
    shell = re.sub(r"\\\n", " ", text)
    found = []
    for match in re.finditer(r"^(?!\s*#).*?(\buv[\"')}]*|\$[({]\w*UV\w*[)}]) pip install (.*)$", shell, re.M):
        words = shlex.split(re.split(r"&&|;|\|", match[2])[0])
        kept: list[str] = []
        for word in words:
            if kept and kept[-1] in ("--python", "--group"):
                kept.pop()
            elif word not in ("--quiet", "-q") and not word.startswith(("--python=", "--group=")):
                kept.append({"--constraint": "-c", "--constraints": "-c", "--editable": "-e"}.get(word, word))
        found.append(sorted(kept))
    return found


def test_the_dockerfile_has_no_problem() -> None:
    assert problems(DOCKERFILE) == []
    assert len(INSTRUCTIONS) > 20


@pytest.mark.parametrize(
    ("good", "bad", "rule"),
    [
        ("FROM python:3.11.14-slim\n", "FROM python\n", "DL3006"),
        ("FROM python:3.11.14-slim\n", "FROM python:latest\n", "DL3007"),
        ("FROM python:3.11.14-slim\n", "FROM python:3-slim\n", "pinned"),
        ("USER 10001", "USER root", "DL3002"),
        ("USER 10001", "", "DL3002"),
        ("USER 10001", "USER 10001\nFROM python:3.11.14-slim", "DL3002"),
        ("USER 10001", "USER 10001\nRUN sudo true", "DL3004"),
        ("USER 10001", "RUN apt-get update && apt-get install -y git\nUSER 10001", "DL3009"),
        ("USER 10001", "RUN apt-get install -y git && rm -rf /var/lib/apt/lists/*\nUSER 10001", "DL3015"),
        ("USER 10001", "RUN apt install git\nUSER 10001", "DL3027"),
        ("--no-cache-dir ", "", "DL3042"),
        ("uv==1.0", "uv", "DL3013"),
        ("uv==1.0", "uv==1.0 && cd /app", "DL3003"),
        ("uv==1.0", "uv==1.0 \\\n    && curl example.org", "download"),
        ('CMD ["true"]\n', "CMD true\n", "DL3025"),
        ("USER 10001", "ADD a b\nUSER 10001", "DL3020"),
        ("USER 10001", "WORKDIR app\nUSER 10001", "DL3000"),
        ("USER 10001", "ENV DB_PASSWORD=x\nUSER 10001", "secret"),
        ("HEALTHCHECK", "LABEL", "DL3057"),
    ],
)
def test_each_rule_sees_what_it_is_for(good: str, bad: str, rule: str) -> None:
    assert problems(GOOD) == []
    assert good in GOOD
    found = problems(GOOD.replace(good, bad))
    assert [problem for problem in found if problem.startswith(rule)], found


def test_every_copied_path_exists_and_is_not_ignored() -> None:
    lines = (PROJECT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in lines
    let_in = [line[1:] for line in lines if line.startswith("!")]
    assert len(copies()) >= 7
    for source in copies():
        assert (PROJECT / source).exists(), source
        assert any(fnmatch.fnmatch(source, pattern) for pattern in let_in), f"{source} is ignored"


def test_everything_that_runs_is_in_the_image() -> None:
    for folder in ("dags", "plugins", "include", "dbt_project", "expectations", "docs"):
        files = [f for f in (PROJECT / folder).rglob("*") if f.is_file() and "__pycache__" not in f.parts]
        assert not files or folder in copies(), f"{folder} has files, and the image does not"


def test_the_image_is_installed_as_make_installs() -> None:
    image = install_commands(DOCKERFILE)
    assert len(image) == 1
    assert image[0] in install_commands((PROJECT / "Makefile").read_text(encoding="utf-8"))


def test_install_commands_are_found_however_they_are_written() -> None:
    wanted = [["--compile-bytecode", "-c", "-e", ".", "constraints.txt"]]
    for text in (
        "uv pip install --compile-bytecode -c constraints.txt -e .",
        "\tuv pip install --python .venv --compile-bytecode -c constraints.txt -e . --group dev",
        "\t@$(UV) pip install -q --compile-bytecode \\\n\t\t--constraints constraints.txt -e . && true",
    ):
        assert install_commands(text) == wanted, text
    assert install_commands("# uv pip install .") == []


def test_both_devices_are_stages() -> None:
    stages = {found.value.split()[-1] for found in INSTRUCTIONS if found.name == "FROM"}
    assert {"runtime-cpu", "runtime-gpu"} <= stages
    assert INSTRUCTIONS[0] == Instruction(INSTRUCTIONS[0].line, "ARG", "DEVICE=cpu")
    last = [found for found in INSTRUCTIONS if found.name == "FROM"][-1]
    assert last.value == "runtime-${DEVICE}"


def test_only_the_environment_and_git_are_installed() -> None:
    """Both stages start from the same Python, or the environment built in one breaks in the other."""
    images = {found.value.split()[0] for found in INSTRUCTIONS if found.name == "FROM"}
    assert len([image for image in images if image.startswith("python:")]) == 1
    runs = [words[0] for found in INSTRUCTIONS if found.name == "RUN" for words in commands(found)]
    assert set(runs) <= {"apt-get", "rm", "pip", "mkdir", "uv", "useradd", "install"}
    packages = [
        word
        for found in INSTRUCTIONS
        if found.name == "RUN"
        for words in commands(found)
        if words[:2] == ["apt-get", "install"]
        for word in words[2:]
        if not word.startswith("-")
    ]
    assert packages == ["git", "openssh-client"]


@pytest.fixture(scope="module")
def healthcheck() -> ModuleType:
    spec = importlib.util.spec_from_file_location("healthcheck", PROJECT / "docker" / "healthcheck.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("command", "component"),
    [
        ("/app/.venv/bin/python /app/.venv/bin/airflow api-server", "api-server"),
        ("/sbin/docker-init -- airflow scheduler --skip-serve-logs", "scheduler"),
        ("airflow dag-processor", "dag-processor"),
        ("airflow triggerer", "triggerer"),
        ("airflow db migrate", ""),
    ],
)
def test_the_health_check_knows_what_it_checks(healthcheck: ModuleType, command: str, component: str) -> None:
    assert healthcheck.component(command) == component


def test_a_server_that_does_not_answer_is_not_healthy(
    healthcheck: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTSHIFT_AIRFLOW_PORT", "1")
    assert not healthcheck.works("api-server")
