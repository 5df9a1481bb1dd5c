"""Take the README's picture of the report: the top of the page in a browser.

    python -m vtl.report runs/relu_digits runs/probe_demo ... -o report.html
    python -m experiments.make.report_picture report.html

This needs the extra `test` and Chromium. It writes experiments/make/report_picture.png.
"""

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright


def main() -> None:
    """Open the page and take its picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path)
    report = parser.parse_args().report
    if not report.exists():
        parser.error(f"{report}: no such file")
    with sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1240, "height": 1500})
        page.goto(report.absolute().as_uri())
        page.screenshot(path=Path(__file__).with_suffix(".png"))
        browser.close()


if __name__ == "__main__":
    main()
