"""Take the picture of a report that the README shows: ``python docs/report_figure.py runs/asr docs/report.png``."""

from __future__ import annotations

import base64
import shutil
import sys
import tempfile
import time
from pathlib import Path

from selenium.webdriver import Chrome
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

from rayconvai.analysis.report import write_report

WIDTH, LAST = 1200, "plot-learning_curves"
"""Pixels, and the section that the picture ends with."""


def main(sweep: Path, figure: Path) -> None:
    options = Options()
    for flag in ("--headless=new", "--no-sandbox", "--enable-unsafe-swiftshader", "--hide-scrollbars"):
        options.add_argument(flag)
    options.binary_location = shutil.which("chromium") or ""
    with tempfile.TemporaryDirectory() as scratch, Chrome(options, Service(shutil.which("chromedriver"))) as browser:
        browser.get(Path(write_report(sweep, Path(scratch) / "report.html")).as_uri())
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": WIDTH, "height": 2400, "deviceScaleFactor": 1, "mobile": False},
        )
        time.sleep(3)  # until the plots are drawn
        height = browser.execute_script(f"return document.getElementById('{LAST}').getBoundingClientRect().bottom + 12")
        clip = {"x": 0, "y": 0, "width": WIDTH, "height": height, "scale": 1}
        picture = browser.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True})
    figure.write_bytes(base64.b64decode(picture["data"]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
