"""Takes the pictures of pages in docs/.

The Space: python tests/space/screenshots.py BROWSER_PYTHON ADDRESS docs, while `grlm space` runs.
A report: python tests/space/screenshots.py BROWSER_PYTHON grlm-quickstart/report.html docs
"""

import sys
from pathlib import Path

from browser import Browser

SHOTS = (("space-desktop", False, 1280, 1560), ("space-dark", True, 1280, 1560), ("space-phone", False, 390, 1560))


def report(python: str, path: str, folder: str) -> None:
    with Browser(Path(python)) as page:
        page.ask("size", width=1280, height=1300)
        page.open(Path(path).resolve().as_uri())
        page.ask("shot", path=str(Path(folder).resolve() / "report.png"))


def main(python: str, address: str, folder: str) -> None:
    for name, dark, width, height in SHOTS:
        with Browser(Path(python), dark) as page:
            page.ask("size", width=width, height=900)
            page.open(address)
            page.wait("document.querySelectorAll('#history [data-do=example]').length > 1")
            page.click("#history [data-do=example]:nth-of-type(2)")
            page.wait("document.querySelectorAll('.g-card').length > 4")
            page.click(".g-card [data-do=why]")
            page.wait("!!document.querySelector('.g-why')")
            if dark:  # steered, and down at the tree
                page.click(".g-card:nth-child(2) .g-chip [data-do=ban]")
                page.wait("!!document.querySelector('.g-active')")
            page.ask("size", width=width, height=height)
            if dark:
                page.js("document.querySelector('.g-card:nth-child(4) .g-chip').open = true")
                page.js("document.querySelector('.g-card:nth-child(6)').scrollIntoView()")
            page.ask("shot", path=str(Path(folder).resolve() / f"{name}.png"))


if __name__ == "__main__":
    (report if sys.argv[2].endswith(".html") else main)(*sys.argv[1:])
