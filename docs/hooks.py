"""Hook of mkdocs: adds the files outside docs/ that pages link to.

Links are written for GitHub, as ``../benchmarks/results/x.png``. The root of the site is docs/, so the file is ``benchmarks/results/x.png``
there, and the links are changed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = ("CONTRIBUTING.md", "CHANGELOG.md")
FOLDERS = ("benchmarks/results", "examples", "recipes")  # copied as they are


def on_files(files: Files, config: Any) -> Files:
    copied = [str(p.relative_to(ROOT)) for folder in FOLDERS for p in sorted((ROOT / folder).iterdir()) if p.is_file()]
    for name in (*PAGES, *copied):
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    if page.file.src_uri in PAGES:  # at the root, beside docs/
        return markdown.replace("](docs/", "](")
    return re.sub(r"\]\(\.\./README\.md", "](index.md", markdown).replace("](../", "](")
