"""Debian's chromium, and users of Airflow's in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

from nightshift.services import airflow

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

_SIGNED_IN = """
from airflow.api_fastapi.app import create_auth_manager
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
print(create_auth_manager().generate_jwt(SimpleAuthManagerUser(username="reader", role="VIEWER")))
"""


@contextmanager
def browser() -> Iterator[Browser]:
    """Start a browser, and end it."""
    # Airflow may be busy with a night.
    expect.set_options(timeout=30_000)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=list(_FLAGS))
        yield started
        started.close()


def logged_in(chromium: Browser) -> Page:
    """Return a page on which the admin has logged in as people do."""
    tab = chromium.new_page()
    tab.set_default_timeout(60_000)
    tab.goto(airflow.address())
    tab.locator("[name=username]").fill(airflow.ADMIN)
    tab.locator("[name=password]").fill(airflow.admin_password())
    tab.get_by_role("button", name="Sign in").click()
    tab.wait_for_url(f"{airflow.address()}/")
    return tab


# Airflow's pages scroll inside of the window.
_BELOW = """() => Math.max(0, ...[...document.querySelectorAll("*")]
    .filter(element => ["auto", "scroll"].includes(getComputedStyle(element).overflowY))
    .map(element => element.scrollHeight - element.clientHeight))"""


def picture(tab: Page, name: str, *, whole: bool = False) -> None:
    """Keep what a page looks like as ``<name>.png`` in the folder TOUR_PICTURES, or in ``build/pictures``.

    Args:
        tab: The page.
        name: The picture's name.
        whole: The window grows until nothing is left to scroll to.
    """
    folder = Path(os.environ.get("TOUR_PICTURES") or Path(__file__).parents[2] / "build" / "pictures")
    folder.mkdir(parents=True, exist_ok=True)
    tab.wait_for_load_state("networkidle")
    size = tab.viewport_size
    if whole and size:
        tab.set_viewport_size({**size, "height": size["height"] + tab.evaluate(_BELOW)})
    tab.screenshot(path=folder / f"{name}.png")
    if whole and size:
        tab.set_viewport_size(size)


def viewer_token() -> str:
    """Return a token as Airflow would give it to a user who may look and change nothing."""
    return subprocess.run(
        [sys.executable, "-c", _SIGNED_IN],
        env={**os.environ, **airflow.environment()},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()[-1]


def as_viewer(chromium: Browser) -> Page:
    """Return a page of a user who may look and change nothing."""
    context = chromium.new_context()
    context.add_cookies([{"name": "_token", "value": viewer_token(), "url": airflow.address()}])
    tab = context.new_page()
    tab.set_default_timeout(60_000)
    return tab
