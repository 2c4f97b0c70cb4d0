"""An evaluation that `test_evaluation_processes` starts in one process and in two: ``processes_toy.py FOLDER [broken]``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from toys import toy_catalog, toy_grlm, toy_histories

from grlm_hf.data.interactions import leave_one_out
from grlm_hf.evaluation.evaluate import Setup, evaluate
from grlm_hf.evaluation.generative import constrained
from grlm_hf.evaluation.processes import is_main, world
from grlm_hf.evaluation.rankings import Chunks, Rankings
from grlm_hf.evaluation.scored import scored
from grlm_hf.files import write_json
from grlm_hf.priors.popularity import Popularity

SPLIT = leave_one_out(toy_histories())


def main(folder: Path, broken: bool) -> None:
    rank, size = world()
    catalog = toy_catalog()
    popular = Popularity.fit(tuple(i.item_id for i in catalog), SPLIT.train)
    counts = {i.item_id: n for n, i in enumerate(catalog)}
    grlm = constrained(toy_grlm("trie"), True)

    def counted(histories: Sequence[Sequence[str]]) -> Rankings:
        if broken and rank == 1:
            raise ValueError("a poem about sheep")
        with open(folder / f"asked-{rank}-of-{size}", "a", encoding="utf-8") as file:
            file.write(f"{len(histories)}\n")
        return grlm(histories)

    report = evaluate(
        {"grlm": counted, "popularity": scored(popular, catalog, True)},
        SPLIT.test, catalog, Setup("toy", "leave-one-out", "left out", resamples=50), counts=counts,
        unmasked={"popularity": scored(popular, catalog, False)}, chunks=Chunks(folder / f"work-{size}", size=12),
    )  # fmt: skip
    if is_main():
        write_json(folder / f"report-{size}.json", report.to_json())
    write_json(folder / f"seen-by-{rank}-of-{size}.json", report.to_json())


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(Path(sys.argv[1]), "broken" in sys.argv[2:])
