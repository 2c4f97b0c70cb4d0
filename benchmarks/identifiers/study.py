"""Every kind of identifier under one recipe: which one should a catalog have?

    OMP_NUM_THREADS=1 python benchmarks/identifiers/study.py --work runs/study                     # all kinds, three seeds; hours
    OMP_NUM_THREADS=1 python benchmarks/identifiers/study.py --work runs/study --kinds rkmeans,random --seeds 0
    python benchmarks/identifiers/study.py --work runs/study --report                              # only the tests and the page's table

Reads $GRLM_DATA, by default ../shared/data. Each kind gets the same small decoder-only model from scratch, the same epochs, and the same
answers of the same teacher; all test users, full catalog, seen items left out, hits counted by item. A finished run is kept: after an
interruption the same command goes on. Writes results/identifiers-study.json, a row a kind, data set, teacher and seed, with paired tests
(sign flips by user, of each user's mean over the seeds; Holm's correction over all).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from grlm_hf.data.catalog import Catalog
from grlm_hf.evaluation.saved import load_rankings, rankings_path
from grlm_hf.evaluation.schema import load_report
from grlm_hf.evaluation.significance import compare_pairs
from grlm_hf.files import read_json, write_json
from grlm_hf.layout import CONFIG_FILE, LABELS_FILE, NEIGHBORS_FILE
from grlm_hf.recipe import Recipe, override
from grlm_hf.stages.dataset import make_dataset
from grlm_hf.stages.identify import make_identifiers, make_neighbors
from grlm_hf.stages.model import make_checkpoint, make_report
from grlm_hf.stages.priors import make_priors
from grlm_hf.stages.teacher import make_teacher

DATA = Path(os.environ.get("GRLM_DATA", "../shared/data"))
RESULT = Path(__file__).parents[1] / "results" / "identifiers-study.json"
SCHEMA = "grlm.study/1"

_CODES = "identifier.kind=codes"
KINDS: dict[str, list[str]] = {
    "terms-3": ["terms.n_terms=3"],
    "terms-5": ["terms.n_terms=5"],
    "terms-official": ["terms.generator=file"],
    "residual-kmeans": [_CODES],
    "residual-kmeans+behaviour": [_CODES, "identifier.codes.behaviour=1"],
    "rqvae": [_CODES, "identifier.codes.quantizer=rqvae"],
    "opq": [_CODES, "identifier.codes.quantizer=opq"],
    "random": [_CODES, "identifier.codes.quantizer=random"],
    "atomic": ["identifier.kind=atomic"],
    "pieces": ["identifier.kind=pieces"],
    "titles": ["identifier.kind=titles"],
}
"""Kind → what its recipe changes."""

RECIPE = [
    "read.missing_title=fill", "mixture.internalise=0", "priors.methods=[item_knn,sasrec,text_knn]",
    "priors.combine=[sasrec+item_knn+text_knn]", "priors.form=gate", "priors.fit=macro",
    "train.objective=trie", "train.scratch.vocab_size=8192", "train.scratch.hidden_size=128", "train.scratch.layers=2",
    "train.distill.weight=0.7", "train.distill.top=40", "train.learning_rate=2e-3", "train.weight_decay=0.05", "train.dropout=0.2",
    "train.validation_examples=0", "train.save_steps=250",
    "evaluate.num_beams=30", "evaluate.save_rankings=true", "evaluate.timed_users=32",
]  # fmt: skip
TEACHERS = {
    "sequence": ["train.distill.teacher=sasrec"],
    "fused": ["train.distill.teacher=sasrec+item_knn+text_knn", "train.distill.temperature=1.8"],
}
"""Which identifier is best depends on what the teacher knows: behaviour alone, or texts too."""
SPLIT = {"amazon-industrial": ["read.split=given", "read.short_users=keep"]}


def recipe_of(dataset: str, kind: str, teacher: str, epochs: int, batch: int) -> Recipe:
    changed = [f"data={DATA / dataset}", f"train.epochs={epochs}", f"train.batch_size={batch}", *SPLIT.get(dataset, [])]
    return override(Recipe(), [*RECIPE, *changed, *KINDS[kind], *TEACHERS[teacher]])


def prepared(work: Path, dataset: str, kind: str, r: Recipe) -> Path:
    """The folder of a kind's catalog and datasets, made once."""
    folder, near = work / dataset / kind, work / dataset / NEIGHBORS_FILE
    if not near.is_file():
        make_neighbors(r.data, near, r.neighbors, r.read)
    if not (folder / "catalog").is_dir():
        make_identifiers(r.data, folder / "catalog", r, neighbors=near, work=folder / "work")
    if not (folder / "datasets").is_dir():
        make_dataset(r.data, folder / "catalog", folder / "datasets", r.mixture, r.read, title=kind)
    return folder


def answers(work: Path, dataset: str, teacher: str, r: Recipe, datasets: Path) -> Path:
    """What the teacher says to the training's questions. They are the same for all kinds in which no items share an identifier: items that
    do are one in a question."""
    shared = bool(Catalog.from_pretrained(datasets).collisions)
    priors, labels = work / dataset / "priors", (datasets.parent if shared else work / dataset) / f"{teacher}-{LABELS_FILE}"
    if not labels.is_file():
        if not priors.is_dir():
            make_priors(datasets, priors, r.priors, r.sequence_model)
        make_teacher(datasets, labels, r.train.distill, priors=priors)
    return labels


def measured(work: Path, dataset: str, kind: str, teacher: str, seed: int, epochs: int, batch: int) -> dict[str, Any]:
    """One row of the result: trained and evaluated, or read where that is done."""
    r = recipe_of(dataset, kind, teacher, epochs, batch)
    folder = prepared(work, dataset, kind, r)
    run = folder / f"{teacher}-{epochs}-{seed}"
    checkpoint, report = run / "checkpoint", run / "report.json"
    run.mkdir(exist_ok=True)
    if not (checkpoint / CONFIG_FILE).is_file():
        labels = answers(work, dataset, teacher, r, folder / "datasets")
        began = time.monotonic()
        make_checkpoint(folder / "datasets", checkpoint, r.train, work=run / "work", seed=seed, teacher=labels)
        write_json(run / "seconds.json", {"seconds": time.monotonic() - began})  # of the last sitting, where it was interrupted
    if not report.is_file():
        make_report(checkpoint, folder / "datasets", report, r.evaluate, work=run / "evaluation", seed=seed, name=f"{dataset}, {kind}")
    return row_of(folder, run, report) | {
        "kind": kind, "dataset": dataset, "teacher": teacher, "seed": seed, "epochs": epochs, "batch": batch,
    }  # fmt: skip


def row_of(folder: Path, run: Path, path: Path) -> dict[str, Any]:
    report, catalog = load_report(path), Catalog.from_pretrained(folder / "catalog")
    found = report.methods["grlm"]
    expected = report.collisions["expected"]["grlm"] if "expected" in report.collisions else found  # no item shares an identifier
    costs = report.costs.methods["grlm"] if report.costs else None
    slices = report.slices["target popularity"]
    return {
        **{name: round(found[name].value, 5) for name in ("recall@5", "recall@10", "ndcg@10", "coverage")},
        "expected recall@10": round(expected["recall@10"].value, 5),
        "by target events": {name: round(part.methods["grlm"]["recall@10"].value, 5) for name, part in slices.items()},
        "users": report.protocol.users,
        "items_sharing": sum(map(len, catalog.collisions.values())),
        "identifier_tokens": tokens_of(run / "checkpoint"),
        "parameters": costs and costs.parameters,
        "forwards": costs and costs.forwards,
        "ms_p50": costs and round(costs.ms_p50, 2),
        "training_seconds": round(read_json(run / "seconds.json")["seconds"]),
    }


def tokens_of(checkpoint: Path) -> float:
    from grlm_hf.trie.arrays import Trie

    return round(float(np.mean([len(path) for path in Trie.load(checkpoint / "catalog.trie").paths()])), 2)


def tests(work: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each kind against the best one of its data set, teacher and budget, by each user's mean over the seeds that all of them have."""
    found = []
    for key in sorted({(r["dataset"], r["teacher"], r["epochs"]) for r in rows}):
        dataset, teacher, epochs = key
        mine = [r for r in rows if (r["dataset"], r["teacher"], r["epochs"]) == key]
        kinds = sorted({r["kind"] for r in mine})
        seeds = sorted(set.intersection(*({r["seed"] for r in mine if r["kind"] == kind} for kind in kinds)))
        if len(kinds) < 2 or not seeds:
            continue
        hits, users = {}, None
        for kind in kinds:
            runs = [load_rankings(rankings_path(work / dataset / kind / f"{teacher}-{epochs}-{s}" / "report.json")) for s in seeds]
            users = runs[0].users
            values = [one.values()["grlm"] for one in runs]
            hits[kind] = {m: np.mean([v[m] for v in values], axis=0) for m in ("recall@10", "ndcg@10")}
        best = max(kinds, key=lambda kind: float(hits[kind]["recall@10"].mean()))
        pairs = [(best, kind, m) for kind in kinds if kind != best for m in ("recall@10", "ndcg@10")]
        for c in compare_pairs(hits, users, pairs, 1000, seed=0):
            found.append({
                "dataset": dataset, "teacher": teacher, "epochs": epochs, "seeds": seeds, "a": c.a, "b": c.b, "metric": c.metric,
                "difference": round(c.difference, 5), "low": round(c.low, 5), "high": round(c.high, 5), "p": c.p, "p_holm": c.p_holm,
            })  # fmt: skip
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """The rows for people: mean and standard deviation over the seeds."""
    lines = ["dataset teacher epochs | kind | seeds | recall@10 | ndcg@10 | 0-2 events … | coverage | tokens | train s"]
    for key in sorted({(r["dataset"], r["teacher"], r["epochs"], r["kind"]) for r in rows}):
        some = [r for r in rows if (r["dataset"], r["teacher"], r["epochs"], r["kind"]) == key]
        mean = {m: np.mean([r[m] for r in some]) for m in ("recall@10", "ndcg@10", "coverage", "identifier_tokens", "training_seconds")}
        sd = np.std([r["recall@10"] for r in some], ddof=1) if len(some) > 1 else 0.0
        slices = " ".join(f"{np.mean([r['by target events'][s] for r in some]):.3f}" for s in some[0]["by target events"])
        lines.append(
            f"{key[0]} {key[1]} {key[2]} | {key[3]} | {len(some)} | {mean['recall@10']:.4f} ±{sd:.4f} | {mean['ndcg@10']:.4f} | {slices} | "
            f"{mean['coverage']:.2f} | {mean['identifier_tokens']:.1f} | {mean['training_seconds']:.0f}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for data, checkpoints and reports")
    parser.add_argument("--datasets", default="amazon-beauty")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--teachers", default="sequence,fused")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--report", action="store_true", help="train nothing: only tests and table of the rows that there are")
    args = parser.parse_args()
    if not DATA.is_dir():
        sys.exit(f"No data at {DATA}; set GRLM_DATA.")
    kept = read_json(RESULT) if RESULT.is_file() else {"schema": SCHEMA, "rows": [], "tests": []}
    rows = {_key(row): row for row in kept["rows"]}
    for seed in [] if args.report else map(int, args.seeds.split(",")):
        for dataset in args.datasets.split(","):
            for teacher in args.teachers.split(","):
                for kind in args.kinds.split(","):
                    row = measured(args.work, dataset, kind, teacher, seed, args.epochs, args.batch)
                    rows[_key(row)] = row
                    write_json(RESULT, {**kept, "rows": [rows[k] for k in sorted(rows)]})
                    print(f"{dataset} {teacher} {kind} seed {seed}: recall@10 {row['recall@10']:.4f}", flush=True)
    ordered = [rows[k] for k in sorted(rows)]
    write_json(
        RESULT, {"schema": SCHEMA, "command": "benchmarks/identifiers/study.py", "rows": ordered, "tests": tests(args.work, ordered)}
    )
    print(table(ordered))


def _key(row: dict[str, Any]) -> tuple[str, str, int, str, int]:
    return row["dataset"], row["teacher"], row["epochs"], row["kind"], row["seed"]


if __name__ == "__main__":
    main()
