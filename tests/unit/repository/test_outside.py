"""What a newcomer reads and what machines call: named files and commands exist, and all call the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from nightshift.cli.main import app
from nightshift.settings import Settings

PROJECT = Path(__file__).resolve().parents[3]
MAKEFILE = (PROJECT / "Makefile").read_text(encoding="utf-8")
PAGES = [
    PROJECT / "README.md",
    PROJECT / "CONTRIBUTING.md",
    *sorted((PROJECT / "docs").glob("*.md")),
    *sorted((PROJECT / "docs" / "decisions").glob("*.md")),
    *sorted((PROJECT / "docs" / "runbooks").glob("*.md")),
]


def recipe(target: str) -> list[str]:
    """Return the commands of a target of the Makefile, with the environment's folder in place."""
    found = re.search(rf"^{re.escape(target)}:[^\n]*\n((?:\t[^\n]*\n)+)", MAKEFILE, re.M)
    assert found, target
    return [line.lstrip("\t@").replace("$(BIN)", ".venv/bin") for line in found[1].splitlines()]


def anchor(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        path, _, fragment = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if path.startswith("https://"):
            continue
        assert file.exists(), f"{page.name}: {target}"
        if fragment:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.M)
            assert fragment in map(anchor, headings), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_targets_commands_and_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([.a-z-]+):", MAKEFILE, re.M))
    commands = {command.callback.__name__ for command in app.registered_commands if command.callback}
    commands |= {group.name for group in app.registered_groups if group.name}
    assert set(re.findall(r"(?:`|^)make ([.a-z-]+)", text, re.M)) <= targets
    assert set(re.findall(r"(?:`|^ *)nightshift ([a-z]+)", text, re.M)) <= commands
    folders = "dags|dbt_project|docker|docs|expectations|include|plugins|tests"
    for path in re.findall(rf"`((?:{folders})/[\w/.-]*)`", text):
        assert (PROJECT / path).exists(), f"{page.name}: {path}"


def test_the_readme_lists_every_setting_with_its_default() -> None:
    table = dict(
        re.findall(r"^\| `NIGHTSHIFT_(\w+)` \| (.*?) \|", PAGES[0].read_text(encoding="utf-8"), re.M)
    )
    assert set(table) == {name.upper() for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        shown = table[name.upper()].strip("`")
        if name == "project":
            assert shown == "the checkout"
        elif isinstance(field.default, Path):
            assert shown == field.default.name
        else:
            assert shown == (str(field.default) or "empty"), name


def test_a_day_is_followed_through_at_most_eight_files() -> None:
    text = PAGES[0].read_text(encoding="utf-8")
    section = text.split("## Follow one day through the code")[1].split("\n## ")[0]
    files = re.findall(r"^\d+\. \[`([^`]+)`\]", section, re.M)
    assert 5 <= len(files) <= 8
    assert files[0] == "dags/ingest.py"


def test_hooks_run_the_commands_of_make_lint() -> None:
    config = yaml.safe_load((PROJECT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [repository["repo"] for repository in config["repos"]] == ["local"], "hooks work offline"
    hooks = config["repos"][0]["hooks"]
    assert [hook["entry"] for hook in hooks] == recipe("lint")
    assert all(hook["language"] == "system" for hook in hooks)


def test_ci_runs_make_test_and_nothing_else() -> None:
    workflow = yaml.safe_load((PROJECT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert [step["run"] for step in steps if "run" in step] == ["make test"]
    used = {step["uses"].partition("@")[0] for step in steps if "uses" in step}
    assert used == {"actions/checkout", "actions/setup-python", "actions/cache"}


def test_decisions_are_numbered_dated_and_listed() -> None:
    folder = PROJECT / "docs" / "decisions"
    pages = sorted(folder.glob("[0-9]*.md"))
    index = (folder / "README.md").read_text(encoding="utf-8")
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert re.match(rf"# {page.name[:4]}: .+\n\n\d{{4}}-\d\d-\d\d\n", text), page.name
        assert {"Context", "Choice", "Rejected"} <= set(re.findall(r"^## (\w+)", text, re.M)), page.name
        assert f"({page.name})" in index
