"""Walks the guide own-catalog.md, its commands word for word, on real tables of a shop, and records it in own-catalog-walk.txt.

python docs/walk.py DATA/amazon-industrial WORK     # `grlm` and `python` are those of the PATH; WORK is a new folder

The tables are the data's items and events as a shop might export them: tab-separated, with other column names, the items that nobody
bought among them. Progress is left out, long outputs and long lines are cut.
"""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import textwrap
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

from grlm_hf.data.interactions import load_histories
from grlm_hf.data.items import load_items
from grlm_hf.stages.reading import find_data

GUIDE = Path(__file__).with_name("own-catalog.md")
RECORD = Path(__file__).with_name("own-catalog-walk.txt")
FIRST, LAST = 34, 26  # lines kept of the beginning and the end of an output
WIDTH = 150  # characters of a line; sentences are wrapped, data are cut
HEAD = """The guide own-catalog.md on Amazon Industrial & Scientific: its commands as written there, with the package of an installed wheel.
The tables are exported with other column names, and with the items that nobody bought. Progress is left out; long outputs and long
lines are cut.

Recorded by: OMP_NUM_THREADS=1 python docs/walk.py DATA/amazon-industrial WORK
"""
PROGRESS = re.compile(r"^\S+: \d+%, |it/s\]|s/it\]")


def export(data: Path, folder: Path) -> None:
    """Writes ``products.tsv`` and ``orders.tsv``; the data have no times, so an event gets its position as its date."""
    items = load_items(find_data(data, "items"), missing_title="fill")
    known = {item.item_id for item in items}
    histories = load_histories(find_data(data, "interactions", "sequences"), known, short_users="keep", unknown_items="drop")
    with open(folder / "products.tsv", "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, delimiter="\t")
        table.writerow(["SKU", "Product Name", "Manufacturer", "Details"])
        table.writerows([item.item_id, item.title, item.brand, item.description] for item in items)
    with open(folder / "orders.tsv", "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, delimiter="\t")
        table.writerow(["Customer ID", "SKU", "Order Date"])
        table.writerows([h.user_id, item, 1_500_000_000 + 86_400 * n] for h in histories for n, item in enumerate(h.items))


def commands() -> list[str]:
    """The blocks of bash of the guide, but that for people without tables."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [block for block in blocks if "write_sample" not in block]


def shown(text: str) -> str:
    lines: list[str] = []
    for line in (part.rpartition("\r")[2].rstrip() for part in text.splitlines()):
        if PROGRESS.search(line):
            continue
        if len(line) <= WIDTH:
            lines.append(line)
        elif "\t" in line or line.startswith(("{", "|")) or len(line) > 4 * WIDTH:
            lines.append(f"{line[:WIDTH]} …")
        else:
            lines += textwrap.wrap(line, WIDTH, break_long_words=False, break_on_hyphens=False)
    if len(lines) > FIRST + LAST + 1:
        lines = [*lines[:FIRST], f"… ({len(lines) - FIRST - LAST} lines more)", *lines[-LAST:]]
    return "".join(f"{line}\n" for line in lines)


def answers(url: str) -> bool:
    for _ in range(1200):
        with suppress(OSError), urllib.request.urlopen(url, timeout=5) as page:
            return bool(page.status == 200)
        time.sleep(0.1)
    return False


def walk(folder: Path) -> str:
    """Runs the commands in `folder`; returns what was typed and printed."""
    record: list[str] = []

    def typed(block: str) -> None:
        record.append("\n" + "".join(f"$ {line}\n" for line in block.splitlines()))

    typed("head -n 3 products.tsv orders.tsv")
    record.append(shown(subprocess.run(["head", "-n", "3", "products.tsv", "orders.tsv"], cwd=folder, text=True, stdout=-1).stdout))
    service, log = None, folder / "serve.log"
    for block in commands():
        typed(block)
        begun = time.monotonic()
        if block.startswith(("grlm serve", "grlm space")):
            page = "http://127.0.0.1:8000/health/live" if "serve" in block else "http://127.0.0.1:7860"
            with open(log, "w", encoding="utf-8") as file:
                started = subprocess.Popen(["bash", "-c", f"exec {block}"], cwd=folder, stdout=file, stderr=file)
            if not answers(page):
                started.terminate()
                sys.exit(f"{block.strip()} does not answer: {log.read_text(encoding='utf-8')}")
            if "serve" in block:
                service = started
                record.append(shown(log.read_text(encoding="utf-8")))
                continue
            record.append("(the page answers: HTTP 200)\n")
            started.terminate()
            started.wait(60)
            continue
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", block], cwd=folder, text=True, stdout=-1, stderr=subprocess.STDOUT)
        record.append(shown(re.sub(r"(?<=\})(?=\{\")", "\n", done.stdout)))
        if done.returncode:
            sys.exit("".join(record) + f"\nended with status {done.returncode}")
        if (took := time.monotonic() - begun) > 60:
            record.append(f"({took / 60:.0f} min)\n")
        if service and "curl" in block:
            service.terminate()
            service.wait(60)
            service = None
    return "".join(record)


def main() -> None:
    if len(sys.argv) != 3 or Path(sys.argv[2]).exists():
        sys.exit(__doc__)
    data, folder = Path(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir(parents=True)
    export(data, folder)
    RECORD.write_text(HEAD + walk(folder), encoding="utf-8")


if __name__ == "__main__":
    main()
