"""One recipe with models of several sizes, and how their validation loss falls."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from grlm_hf.data.interactions import Case
from grlm_hf.data.repository import load_cases
from grlm_hf.evaluation.scaling import LEAST, Scaling, scaling
from grlm_hf.files import fingerprint, only_writer, read_json, write_json
from grlm_hf.layout import LABELS_FILE, NEIGHBORS_FILE, SCALING_FILE
from grlm_hf.progress import progress
from grlm_hf.recipe import Recipe
from grlm_hf.stages.chain import run
from grlm_hf.stages.seeds import take_over
from grlm_hf.training.preflight import check_memory
from grlm_hf.training.scratch import ScratchConfig, count_parameters, shape_of

_SHARED = {
    "neighbors": NEIGHBORS_FILE, "terms": "catalog", "quality": "quality", "dataset": "datasets", "priors": "priors", "teacher": LABELS_FILE
}  # fmt: skip
"""Stages that no size of the model changes, and what each writes."""
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9}
_ROWS = 512  # users between two moves of the bar


def run_sizes(recipe: Recipe, sizes: Sequence[str], say: Callable[[str], None] = print) -> Scaling:
    """Trains a recipe's model from scratch in several sizes, each in ``OUTPUT/size-N``, measures their losses, and writes the law
    that these follow to ``OUTPUT/scaling.json`` and ``scaling.png``.

    The first run makes what no size changes, up to the teacher; the others take it over. Finished stages are kept, so an interrupted call
    goes on where it stopped. Test users are never read.

    Args:
        sizes: numbers of parameters, such as "500K", "2M" or "1.5B"; `grlm_hf.training.scratch.shape_of` makes shapes of them.

    Raises:
        ValueError: fewer than four sizes, or two of one shape; a size that is no number, or whose training is larger than the memory; a
            recipe with a pretrained model, or that pushes it, or that is one part of several; a split without validation users of
            known items; and as `run`.
    """
    if recipe.train.model != "scratch":
        raise ValueError(f"train.model is {recipe.train.model!r}, whose size is given; models of several sizes are made from scratch.")
    if recipe.train.hub.repo or recipe.terms.llm.part:
        raise ValueError("The recipe has train.hub.repo or terms.llm.part, which are of a single run; leave them out.")
    if recipe.read.split == "unseen-items":
        raise ValueError("read.split is unseen-items, so validation users ask for items that no size knows; choose another split.")
    if not recipe.output:
        raise ValueError("The recipe names no output folder: --output DIR.")
    shapes = _shapes(sizes, recipe.train.scratch)
    out, losses, found = Path(recipe.output), [], []
    with only_writer(out):
        out.mkdir(parents=True, exist_ok=True)
        first, cases = out / f"size-{next(iter(shapes))}", list[Case]()
        for name, shape in shapes.items():
            say(f"size {name}: {count_parameters(shape):,} parameters, {shape.layers} layers of {shape.hidden_size}")
        for name, shape in shapes.items():
            folder = out / f"size-{name}"
            one = replace(recipe, output=str(folder), until="teacher", train=replace(recipe.train, scratch=shape))
            if cases:
                take_over(first, folder, _SHARED)
            say(f"size {name} → {folder}")
            if not cases:
                run(one, say)
                cases = load_cases(folder / "datasets", "validation")
            run(replace(one, until="train"), say)
            facts, loss = _measured(folder, cases, recipe.evaluate.batch_size)
            say(f"validation loss: {loss.mean():.4f} nats")
            losses.append(loss)
            found.append({"name": name, **facts, "hidden_size": shape.hidden_size, "layers": shape.layers})
        law = scaling(recipe.name, found, np.stack(losses), [case.user_id for case in cases], recipe.seed)
        _save(law, out)
    return law


def _shapes(sizes: Sequence[str], like: ScratchConfig) -> dict[str, ScratchConfig]:
    """Size → shape, in ascending order."""
    asked = {}
    for size in sizes:
        if not (match := re.fullmatch(r"(\d{1,12}(?:\.\d{1,12})?)([KMB]?)", size.strip().upper())) or not float(match[1]):
            raise ValueError(f"--sizes has {size!r}; expected numbers of parameters, such as 0.5M,1M,2M,4M.")
        asked[match[0]] = round(float(match[1]) * _UNITS[match[2]])
    if len(asked) < LEAST:
        raise ValueError(f"--sizes has {len(asked)} sizes; expected at least {LEAST}: three to fit the law, and the largest to predict.")
    for name, parameters in asked.items():
        check_memory(name, parameters)
    shapes = {name: shape_of(parameters, like) for name, parameters in sorted(asked.items(), key=lambda pair: pair[1])}
    for (one, shape), (other, same) in zip(shapes.items(), list(shapes.items())[1:], strict=False):
        if shape == same:
            raise ValueError(f"--sizes has {one} and {other}, whose nearest shape is the same; choose sizes that lie farther apart.")
    return shapes


def _measured(folder: Path, cases: Sequence[Case], batch_size: int) -> tuple[dict[str, int], np.ndarray]:
    """The size of a checkpoint as it is, and its loss for each case, float64 [cases]; kept beside the records of its stages."""
    kept, key = folder / ".grlm" / "loss.json", fingerprint("loss", [folder / "datasets", folder / "checkpoint"], [])
    if not kept.is_file() or read_json(kept).get("key") != key:
        from grlm_hf.evaluation.processes import to_device
        from grlm_hf.modeling.recommender import GRLMForRecommendation

        grlm = to_device(GRLMForRecommendation.from_pretrained(folder / "checkpoint"))
        grlm.config = replace(grlm.config, objective="trie")  # whichever it was trained with
        model, losses = grlm.language_model("A validation loss"), list[float]()
        with progress(total=len(cases), desc="validation loss", unit="user", disable=len(cases) < _ROWS) as bar:
            for start in range(0, len(cases), _ROWS):
                some = cases[start : start + _ROWS]
                losses += (-grlm.score([list(c.history) for c in some], [c.target for c in some], batch_size=batch_size)).tolist()
                bar.update(len(some))
        parameters = sum(p.numel() for p in model.parameters())
        facts = {"parameters": parameters, "without_embeddings": parameters - model.get_input_embeddings().weight.numel()}
        write_json(kept, {"key": key, "facts": facts, "losses": losses})
    found = read_json(kept)
    return found["facts"], np.array(found["losses"], np.float64)


def _save(law: Scaling, out: Path) -> None:
    from grlm_hf.evaluation.report.plots import save_png, scaling_figure

    write_json(out / SCALING_FILE, law.to_json())
    save_png(scaling_figure(law), (out / SCALING_FILE).with_suffix(".png"))
