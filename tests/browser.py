"""A real browser for tests: headless Chromium, with its own driver and a profile of its own that goes afterwards.

    with chromium() as browser:
        browser.get("http://localhost:1234/")

Nothing is downloaded: browser and driver are those of the system (Debian: chromium, chromium-driver).
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

from tests.conftest import require

_T = TypeVar("_T")
#: How long, in seconds, a page may take on a busy machine to show what it is waited for.
PATIENCE_S = 120.0
#: As root there is no sandbox; nothing is to be fetched that no test asked for.
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--no-first-run"),
    *("--no-proxy-server", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--disable-extensions",
)


class Browser:
    """A window of Chromium."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def get(self, url: str) -> None:
        """Show a page."""
        self.driver.get(url)

    def run(self, script: str, *arguments: object) -> Any:
        """What a script returns."""
        return self.driver.execute_script(script, *arguments)

    def wait(self, condition: Callable[[], _T], what: str) -> _T:
        """Wait until something is so, and return it."""
        return WebDriverWait(self.driver, PATIENCE_S, 0.05).until(lambda _driver: condition(), what)

    def shape(self, width: int, height: int, scheme: str) -> None:
        """A window of this size, on a system with light or dark colours."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.wait(lambda: self.run("return innerWidth") == width, "the width of the window")

    def complaints(self) -> list[str]:
        """What the console said since the last time."""
        return [str(entry["message"]) for entry in self.driver.get_log("browser")]

    def requested(self) -> set[str]:
        """The addresses that pages of http or https asked for since the last time, and where sockets led."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [one["params"] for one in messages if one["method"] == "Network.requestWillBeSent"]
        found = {one["request"]["url"] for one in sent if one["documentURL"].startswith("http")}
        return found | {one["params"]["url"] for one in messages if one["method"] == "Network.webSocketCreated"}


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser; skips the test where there is none."""
    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    require(all(programs.values()), "chromium and chromedriver are not installed (Debian: chromium, chromium-driver)")
    profile = tempfile.mkdtemp(prefix="browser-")
    environment = os.environ | {"HOME": profile, "TMPDIR": profile}
    options = Options()
    options.binary_location = str(programs["chromium"])
    for flag in [*_FLAGS, f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    try:
        driver = webdriver.Chrome(options, Service(programs["chromedriver"], env=environment))
        try:
            yield Browser(driver)
        finally:
            driver.quit()
    finally:
        shutil.rmtree(profile, ignore_errors=True)
