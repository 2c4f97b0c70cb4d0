"""Takes the pictures of pages in docs/.

The Space: python tests/space/screenshots.py BROWSER_PYTHON ADDRESS docs, while `grlm space` runs.
A report: python tests/space/screenshots.py BROWSER_PYTHON grlm-quickstart/report.html docs
A card: python tests/space/screenshots.py BROWSER_PYTHON grlm-quickstart/checkpoint/README.md docs
"""

import re
import sys
import tempfile
from pathlib import Path

from browser import Browser

SHOTS = (("space-desktop", False, 1280, 1560), ("space-dark", True, 1280, 1560), ("space-phone", False, 390, 1560))


def report(python: str, path: str, folder: str) -> None:
    with Browser(Path(python)) as page:
        page.ask("size", width=1280, height=1300)
        page.open(Path(path).resolve().as_uri())
        page.ask("shot", path=str(Path(folder).resolve() / "report.png"))


STYLE = """
body{font:15px/1.5 sans-serif;max-width:820px;margin:16px auto;color:#1f2328;overflow:hidden} img{max-width:100%}
h1,h2{border-bottom:1px solid #d1d9e0} table{border-collapse:collapse} td,th{border:1px solid #d1d9e0;padding:4px 10px}
pre{background:#f6f8fa;padding:12px} code{font-size:12px}
"""


def card(python: str, path: str, folder: str) -> None:
    """The upper part of a card, about as the Hub shows it."""
    from markdown import markdown  # it comes with mkdocs

    text = re.sub(r"\A---\n.*?\n---\n", "", Path(path).read_text(encoding="utf-8"), flags=re.DOTALL)
    with tempfile.NamedTemporaryFile("w", suffix=".html", dir=Path(path).resolve().parent, encoding="utf-8") as page:
        page.write(f"<meta charset=utf-8><style>{STYLE}</style>{markdown(text, extensions=['tables', 'fenced_code', 'md_in_html'])}")
        page.flush()
        with Browser(Path(python)) as browser:
            browser.ask("size", width=860, height=1700)
            browser.open(Path(page.name).as_uri())
            browser.ask("shot", path=str(Path(folder).resolve() / "card.png"))


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
    {".html": report, ".md": card}.get(Path(sys.argv[2]).suffix, main)(*sys.argv[1:])
