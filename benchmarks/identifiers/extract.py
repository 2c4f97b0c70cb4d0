"""Term extraction on the real catalogs: items a second after embedding, beside the quality goals, which are its gate.

    OMP_NUM_THREADS=1 python benchmarks/identifiers/extract.py        # reads $GRLM_DATA, by default ../shared/data

CPU seconds of one thread. Writes results/identifiers-extract.json, and what `grlm run recipes/beauty-terms-extract.yaml`
reports of Beauty (less the sellers' titles) as results/identifiers-beauty.json.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "decoding"))
import numpy as np
from harness import RESULTS, Results

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.items import load_items
from grlm_hf.files import write_json
from grlm_hf.indexing.collisions import collision_report, resolve
from grlm_hf.indexing.extract import extract_terms
from grlm_hf.indexing.neighbors import Neighbors, find_neighbors
from grlm_hf.indexing.quality.measure import compare, measure
from grlm_hf.indexing.quality.pictures import plot
from grlm_hf.indexing.quality.report import note_of
from grlm_hf.stages.quality import read_as_written
from grlm_hf.tasks.collaborative import load_item_neighbors

DATA = Path(os.environ.get("GRLM_DATA", "../shared/data"))


def behavioural(path: Path, catalog: Catalog) -> Neighbors:
    """Each item's five nearest by SASRec, which has seen no text: a judge that neither set of identifiers was made in view of."""
    near = load_item_neighbors(path, catalog)
    places = [[catalog.position(other) for other in near.get(item.item_id, ())[:5]] for item in catalog]
    indices = np.array([[*row, *[-1] * (5 - len(row))] for row in places], np.int32)
    scores = np.where(indices < 0, -np.inf, np.linspace(0.9, 0.5, 5)).astype(np.float32)  # the file has an order, no scores
    return Neighbors(tuple(item.item_id for item in catalog), indices, scores)


def main() -> None:
    if not DATA.is_dir():
        sys.exit(f"No data at {DATA}; set GRLM_DATA.")
    results = Results("identifiers-extract", "python benchmarks/identifiers/extract.py")
    for name in ("beauty", "sports"):
        folder = DATA / f"amazon-{name}"
        items = load_items(folder / "items.jsonl.gz", "fill")
        start = time.process_time()
        neighbors = find_neighbors(items)
        results.add(f"{name}: embedding (TF-IDF) and exact search", "items/s", len(items) / (time.process_time() - start))
        start = time.process_time()
        term_ids = extract_terms(items, neighbors)
        extracted = time.process_time() - start
        resolved = resolve(items, term_ids)
        whole = time.process_time() - start
        given = read_as_written(folder / "term_ids_official.jsonl.gz", items)
        ours, theirs = (measure(items, ids, neighbors, n_terms=5) for ids in (resolved, given))
        if name == "beauty":
            found = compare({"extracted": ours, "official": theirs})
            for report in found["sets"].values():  # the sellers' text stays where it is
                report["collisions"]["groups_shown"], report["legality"]["examples"] = [], []
            write_json(RESULTS / "identifiers-beauty.json", found)
            plot(found, RESULTS / "identifiers-beauty.png", note_of(found))
        legal = ours["legality"]["legal"]
        results.add(f"{name}: legal", "share", legal, 1.0)
        shared = collision_report(items, resolved).share
        results.add(f"{name}: items that share an identifier after resolving", "share", shared, 0.01, better="lower")
        agree = ours["agreement"]["shared"], theirs["agreement"]["shared"]
        results.add(f"{name}: terms shared with a neighbour (official {agree[1]:.2f})", "terms", agree[0], agree[1])
        together = behavioural(folder / "similar_items_sasrec.txt.gz", Catalog(items, resolved))
        agree = tuple(measure(items, ids, together, n_terms=5)["agreement"]["shared"] for ids in (resolved, given))
        results.add(f"{name}: terms shared with a neighbour by behaviour (official {agree[1]:.2f})", "terms", agree[0], agree[1])
        align = ours["alignment"]["own"]["text"]["items"], theirs["alignment"]["own"]["text"]["items"]
        results.add(f"{name}: items with a term's word in their text (official {align[1]:.3f})", "share", align[0], align[1])
        gate = legal == 1.0 and shared <= 0.01
        results.add(f"{name}: extraction", "items/s", len(items) / extracted, 500, gate=gate)
        results.add(f"{name}: extraction and resolving", "items/s", len(items) / whole, 500, gate=gate)
    results.save("Extraction, CPU seconds of one thread", "items/s")


if __name__ == "__main__":
    main()
