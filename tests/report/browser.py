"""Debian's Chromium without a window, by its own driver: what a page does, and what it complains of."""

from __future__ import annotations

import base64
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selenium.webdriver import Chrome
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # CI runs as root
    "--disable-dev-shm-usage",
    "--enable-unsafe-swiftshader",  # WebGL without a GPU
    "--autoplay-policy=no-user-gesture-required",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # nothing reaches the network
)
PATIENCE = 30.0


class Browser:
    """One tab."""

    def __init__(self, home: Path) -> None:
        options = Options()
        options.binary_location = CHROMIUM or ""
        for flag in (*FLAGS, f"--user-data-dir={home}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = Chrome(options=options, service=Service(DRIVER))

    def look(self, width: int, height: int, scheme: str = "light") -> None:
        """Take a size of screen, and a person's choice of light or dark."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def open(self, address: str) -> None:
        self.driver.get(address)

    def do(self, script: str, *arguments: Any) -> Any:
        """Run JavaScript; what it returns, or what its promise comes to, is returned."""
        return self.driver.execute_script(script, *arguments)

    def texts(self, selector: str) -> list[str]:
        script = (
            "return [...document.querySelectorAll(arguments[0])].filter(e => e.checkVisibility()).map(e => e.innerText)"
        )
        return list(self.do(script, selector))

    def wait_for(self, condition: Callable[[], Any]) -> Any:
        """Return what a condition comes to as soon as that is true."""
        until = time.monotonic() + PATIENCE
        while True:
            if found := condition():
                return found
            assert time.monotonic() < until, "it did not come"
            time.sleep(0.05)

    def complaints(self) -> list[str]:
        """What the console has that is an error; taking it empties the console."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def picture(self, file: Path) -> None:
        file.write_bytes(base64.b64decode(self.driver.get_screenshot_as_base64()))
