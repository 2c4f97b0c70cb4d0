"""Dataset repository → recommenders without a language model; and, with a checkpoint, their weights beside it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.interactions import Case, History
from grlm_hf.data.repository import dataset_facts, load_cases, sample_cases, train_histories
from grlm_hf.files import read_json, replacing, write_json
from grlm_hf.recipe import PriorsConfig

if TYPE_CHECKING:
    import numpy as np

    from grlm_hf.priors.fused import Fused
    from grlm_hf.priors.how import How
    from grlm_hf.priors.scores import Scorer
    from grlm_hf.priors.sequence import SequenceConfig

UNSEEN = "unseen-items"  # the split of `hold_out_items`
TUNING_FILE = "tuning.json"  # in the folder of the priors
_WATCHED = 3000  # validation cases on which the sequence model's best epoch and the weights of combinations are chosen


def make_priors(
    datasets: str | Path,
    output: str | Path,
    config: PriorsConfig | None = None,
    sequence_model: SequenceConfig | None = None,
    *,
    work: str | Path | None = None,
    seed: int = 0,
    exclude_seen: bool = True,
) -> Fused:
    """Fits the recommenders of `config.methods` and weighs its combinations; writes the folder `output`: a `grlm_hf.priors.fused.Fused` of
    all of them, and ``tuning.json`` with the chosen settings and weights.

    Args:
        datasets: a dataset repository, folder or Hub id. Training events are learnt from; validation cases choose settings and weights.
        sequence_model: settings of the method ``sasrec``.
        work: keeps the state of its training.
        exclude_seen: items of the history are left out, as the evaluation will do.

    Raises:
        ValueError: a dataset without validation cases.
    """
    from grlm_hf.evaluation.unseen import known_catalog
    from grlm_hf.priors.ease import tune_ease
    from grlm_hf.priors.fused import Fused
    from grlm_hf.priors.fusing import fuse
    from grlm_hf.priors.knn import ItemKNN, tune_knn
    from grlm_hf.priors.sequence_training import train_sequence_model
    from grlm_hf.priors.text import TextKNN, tune_text
    from grlm_hf.priors.vae import MultVAE

    config = config or PriorsConfig()
    histories, catalog = train_histories(datasets), Catalog.from_pretrained(datasets)
    if dataset_facts(datasets)["split"] == UNSEEN:
        catalog = known_catalog(catalog, histories)
    validation = load_cases(datasets, "validation")
    cases, many = (
        [c for c in sample_cases(validation, number, seed) if c.target in catalog] for number in (_WATCHED, config.validation_users)
    )
    if not cases:
        raise ValueError(f"{datasets} has no validation cases to tune priors on. Choose another read.split, or set priors.methods=[].")
    ids = [item.item_id for item in catalog]
    made: dict[str, Any] = {}
    tuned: dict[str, Any] = {}
    for name in config.methods:
        if name == "item_knn":
            settings = tune_knn(ids, histories, many, exclude_seen=exclude_seen)
            made[name], tuned[name] = ItemKNN.fit(ids, histories, settings), asdict(settings)
        elif name == "text_knn":
            made[name] = tune_text(TextKNN.fit(catalog.items), cases, exclude_seen=exclude_seen)
            tuned[name] = asdict(made[name].config)
        elif name == "ease":
            made[name], regularisation = tune_ease(ids, histories, cases, exclude_seen=exclude_seen)
            tuned[name] = asdict(made[name].config) | {"regularisation": regularisation}
        elif name == "vae":
            made[name] = MultVAE.learn(ids, histories, validation=cases, seed=seed, exclude_seen=exclude_seen)
            tuned[name] = asdict(made[name].config) | {"log": list(made[name].log)}
        else:
            made[name] = train_sequence_model(
                ids, histories, sequence_model, validation=cases, seed=seed, work=work, exclude_seen=exclude_seen
            )
            tuned[name] = {"log": list(made[name].log)}
    fused = Fused({name: (scorer, 1.0) for name, scorer in made.items()}, ids)
    combinations: dict[str, dict[str, Any]] = {}
    if names := config.combinations():
        parts, macro = fused.parts([c.history for c in cases]), _macro(config, cases, catalog, histories)
        for combination in names:
            some = {name: parts[name] for name in combination.split("+")}
            fitted = fuse(some, cases, ids, fused.counts, form=config.form, fit=config.fit, exclude_seen=exclude_seen, case_weights=macro)
            found = {"weights": fitted.weights} | _measured(fitted.by_case, macro, fitted.how)
            combinations[combination] = found
        if config.form != "mixture":  # others are weights of log-probabilities
            fused = Fused({n: (s, combinations[names[-1]]["weights"].get(n, 1.0)) for n, s in made.items()}, ids)
    fused.save(output)
    write_json(Path(output) / TUNING_FILE, {"cases": len(cases), "methods": tuned, "combinations": combinations})
    return fused


def _macro(config: PriorsConfig, cases: Sequence[Case], catalog: Catalog, histories: Iterable[History]) -> np.ndarray | None:
    """How much each case counts, float64 [cases], if the fit is "macro"."""
    from grlm_hf.evaluation.slices import macro_weights

    return macro_weights(cases, catalog, Counter(i for h in histories for i in h.items)) if config.fit == "macro" else None


def _measured(by_case: np.ndarray, macro: np.ndarray | None, how: How) -> dict[str, Any]:
    """For a file: the NDCG@10 of a fit, its macro average where that was wanted, and its form."""
    averaged = {} if macro is None else {"macro ndcg@10": float((by_case * macro).mean())}
    return {"ndcg@10": float(by_case.mean())} | averaged | how.facts


def names_dense(hybrids: Iterable[str]) -> bool:
    """Whether one of these combinations has the language model's answer without decoding (`grlm_hf.modeling.dense`) as a part."""
    from grlm_hf.priors.awaited import DENSE

    return any(DENSE in name.split("+") for name in hybrids)


def make_hybrid(
    checkpoint: str | Path,
    datasets: str | Path,
    priors: str | Path,
    output: str | Path,
    config: PriorsConfig | None = None,
    *,
    seed: int = 0,
    exclude_seen: bool = True,
    counting: str | Path | None = None,
) -> dict[str, Any]:
    """Weighs each of the hybrids of `config` beside the checkpoint's language model, on validation cases; writes the weights to the file
    `output`, and the best hybrid's prior into the checkpoint, for ``recommend(prior="own")``.

    Args:
        exclude_seen: items of the history are left out, as the evaluation will do.
        counting: folder that receives the best recommender without the language model, calibrated (`fit_temperature`).

    The file's block ``validation`` compares all methods on these cases and chooses the one to ship (`grlm_hf.evaluation.verdict.choose`).

    Raises:
        ValueError: a checkpoint on the Hub, which cannot be changed.
    """
    from grlm_hf.evaluation.verdict import choose
    from grlm_hf.layout import PRIOR_FOLDER, VECTORS_FILE
    from grlm_hf.modeling.dense import weights_hash
    from grlm_hf.modeling.hybrid import tune_hybrid
    from grlm_hf.modeling.recommender import GRLMForRecommendation
    from grlm_hf.priors.awaited import DENSE
    from grlm_hf.priors.fused import Fused, fit_temperature
    from grlm_hf.priors.fusing import fuse
    from grlm_hf.priors.popularity import Popularity
    from grlm_hf.priors.tuning import Targets

    config = config or PriorsConfig()
    if not Path(checkpoint).is_dir():
        raise ValueError(f"{checkpoint} is no folder; a prior is written into a local checkpoint. Download it, or name another.")
    grlm, fused = GRLMForRecommendation.from_pretrained(checkpoint), Fused.load(priors)
    if names_dense(config.hybrid_names()):
        fused = fused.joined({DENSE: (grlm.dense_on(), 1.0)})
    cases = sample_cases(load_cases(datasets, "validation"), config.hybrid_users, seed)
    found: dict[str, Any] = {}
    by_case: dict[str, np.ndarray] = {}
    best: Fused | None = None
    reached, histories = -1.0, train_histories(datasets)
    macro = _macro(config, cases, grlm.catalog, histories)
    counted: Any = 1.0 if macro is None else macro
    for hybrid in config.hybrid_names():
        prior = fused.weighted({n: fused.weights[n] for n in hybrid.split("+")})
        tuned = tune_hybrid(grlm, prior, cases, exclude_seen=exclude_seen, form=config.form, fit=config.fit, case_weights=macro)
        if (value := float((tuned.by_case * counted).mean())) > reached:
            best, reached = tuned.prior, value
        found[hybrid] = {"weights": tuned.weights} | _measured(tuned.by_case, macro, tuned.prior.how)
        by_case = {"grlm": tuned.alone} | by_case | {f"grlm+{hybrid}": tuned.by_case}
    popularity = Popularity.fit(fused.item_ids, histories)
    if best is not None and DENSE in best.components:
        grlm.dense_on().vectors.save(Path(checkpoint) / VECTORS_FILE, weights_hash(checkpoint))
    if best is not None:
        best.with_counts(popularity).save(Path(checkpoint) / PRIOR_FOLDER)
    content: dict[str, Any] = {"cases": len(cases), "hybrids": found}
    if by_case:  # without them the language model was not measured on these users
        combinations = read_json(Path(priors) / TUNING_FILE)["combinations"]
        scorers: dict[str, Scorer] = {name: scorer for name, (scorer, _) in fused.components.items()} | {"popularity": popularity}
        alone = {name: Targets(scorer.item_ids, cases, exclude_seen).by_case(scorer) for name, scorer in scorers.items()}
        used = {name for one in combinations for name in one.split("+")}
        parts = fused.weighted(dict.fromkeys(used, 1.0)).parts([c.history for c in cases]) if used else {}
        for name in combinations:  # fitted and measured as the hybrids are, or the comparison would favour one side
            some = {part: parts[part] for part in name.split("+")}
            alone[name] = fuse(
                some, cases, fused.item_ids, fused.counts, form=config.form, fit=config.fit, exclude_seen=exclude_seen, case_weights=macro
            ).by_case
        by_case |= alone
        choice = choose({name: values * counted for name, values in by_case.items()}, [c.user_id for c in cases], seed)
        content["validation"] = {k: v for k, v in asdict(choice).items() if k != "macro"} | ({} if macro is None else {"macro": True})
        if counting is not None:
            mean = {name: float((by_case[name] * counted).mean()) for name in alone if name != DENSE}
            name = max((n for n in mean if n != "popularity"), key=mean.__getitem__)
            one = combinations.get(name, {"weights": {name: 1.0}})
            prior = fused.stated(one | {"weights": {part: weight for part, weight in one["weights"].items() if weight}})
            temperature, before, after = fit_temperature(prior, cases)
            made = grlm.without_language_model(prior.at(temperature).with_counts(popularity))
            made.config = replace(made.config, exclude_seen=exclude_seen)
            made.save_pretrained(counting)
            facts = {"method": name, "weights": one["weights"]} | _measured(by_case[name], macro, prior.how) | {"temperature": temperature}
            content["counting"] = facts | {"nll": {"before": before, "after": after}}
    with replacing(output) as new:
        new.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return found
