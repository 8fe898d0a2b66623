"""A real browser without a window, and what must hold in it of every page."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

import pytest
from clients import need

WIDTHS = {"desktop": (1400, 900), "phone": (390, 844)}
PAPER = 1032
"""Pixels across an A4 page, landscape, within the margins."""


@contextmanager
def browser() -> Iterator:
    """Starts Chromium; skips where there is none. `apt-get install chromium chromium-driver` installs it."""
    need("selenium", "axe_core_python")
    from selenium import webdriver

    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("needs a browser: chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    # No sandbox: Chromium refuses one to root, as which CI runs; the pages are our own.
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    running = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield running
    finally:
        running.quit()


def visit(running, page: Path, device: str = "desktop", dark: bool = False, media: str = "screen") -> None:
    """Opens a page as ``device`` shows it."""
    width, height = WIDTHS[device] if media == "screen" else (PAPER, 700)
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": device == "phone"}
    running.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    running.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": [scheme]})
    running.get(page.as_uri())


def check_page(running) -> None:
    """Nothing in the console, nothing beside the screen, and nothing that axe-core finds serious."""
    assert running.get_log("browser") == []
    wide, room = running.execute_script(
        "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert wide <= room
    running.execute_script((resources.files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8"))
    report = running.execute_async_script(
        "axe.run(document, {resultTypes: ['violations']}).then(arguments[arguments.length - 1])"
    )
    assert report["passes"], "axe-core looked at nothing"
    serious = [v for v in report["violations"] if v["impact"] in ("serious", "critical")]
    assert not serious, [(v["id"], [node["html"][:200] for node in v["nodes"][:3]]) for v in serious]
