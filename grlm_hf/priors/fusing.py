"""The weights of several scorers on validation cases, in each form (`grlm_hf.priors.how`) and by each way of choosing them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np

from grlm_hf.data.interactions import Case
from grlm_hf.priors.how import Choice, Fit, Form, How, sharpened
from grlm_hf.priors.likelihood import Fitted, fit_weights
from grlm_hf.priors.tuning import Targets, likeliest_temperature, tune_weights

SHARES = (0.0, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0)
"""Candidate weights of a mixture's components; the first one has 1."""
_ROUNDS = 300  # of the EM algorithm


def fuse(
    parts: Mapping[str, np.ndarray],
    cases: Sequence[Case],
    item_ids: Sequence[str],
    counts: np.ndarray | None,
    *,
    form: Choice = "product",
    fit: Fit = "ndcg",
    exclude_seen: bool = True,
    case_weights: np.ndarray | None = None,
    temperatures: Mapping[str, float] | None = None,
) -> Fitted:
    """The weights of these parts, those of the first one 1.

    - A product has those with the best NDCG@10 (`tune_weights`), or a conditional logit's with a bias (`fit_weights`).
    - A mixture first gives each part its own temperature; its weights are those with the best NDCG@10, or the likeliest (EM).
    - A gate is a conditional logit in any case; `fit` chooses what it depends on.
    - "best" is the one of product and gate with the higher NDCG@10, or macro average of it. A mixture lost on each shop that we measured
      (docs/lab-notes.md), and beside a language model needs a search of its own, so it is not tried.

    Where a fit by likelihood is impossible, a product with the best NDCG@10, with a warning.

    Args:
        parts: name → float32 `[cases, n_items]`, log-probabilities, as from `Fused.parts`; a language model's first.
        counts: int64 `[n_items]`, training events of each item; ``None``: unknown.
        case_weights: float64 `[cases]` with mean 1, for the fit "macro": how much each case counts.
        temperatures: of a mixture's parts; by default `temperatures_of` all of them.
    """
    if fit == "macro" and case_weights is None:
        raise ValueError("The fit 'macro' needs case_weights.")
    case_weights = case_weights if fit == "macro" else None
    if form == "best":
        common: dict[str, Any] = {"fit": fit, "exclude_seen": exclude_seen, "case_weights": case_weights}
        tried = [fuse(parts, cases, item_ids, counts, form=one, **common) for one in get_args(Form) if one != "mixture"]
        return max(tried, key=lambda one: (one.by_case * (1.0 if case_weights is None else case_weights)).mean())
    if form == "mixture":
        return _mixture(parts, cases, item_ids, fit, exclude_seen, case_weights, temperatures)
    if form == "gate" or fit == "likelihood":
        try:
            return fit_weights(
                parts, cases, item_ids, counts, exclude_seen=exclude_seen, gated=form == "gate", fit=fit, case_weights=case_weights
            )
        except ValueError as error:
            warnings.warn(f"{'+'.join(parts)}: {error} It is a product, with the weights of the best NDCG@10.", stacklevel=2)
    weights, _ = tune_weights(parts, cases, item_ids, exclude_seen=exclude_seen, case_weights=case_weights)
    return _measured(Fitted(weights, np.zeros(0), How(fit="macro" if fit == "macro" else "ndcg")), parts, cases, item_ids, exclude_seen)


def temperatures_of(parts: Mapping[str, np.ndarray], cases: Sequence[Case], item_ids: Sequence[str]) -> dict[str, float]:
    """The temperature of each part under which the targets are likeliest (`likeliest_temperature`)."""
    target = Targets(item_ids, cases).target
    rows, known = max(1, 2**24 // len(item_ids)), np.flatnonzero(target >= 0)
    chunks = [known[start : start + rows] for start in range(0, len(known), rows)]
    return {name: likeliest_temperature((part[some], target[some]) for some in chunks)[0] for name, part in parts.items()}


def _mixture(
    parts: Mapping[str, np.ndarray],
    cases: Sequence[Case],
    item_ids: Sequence[str],
    fit: Fit,
    exclude_seen: bool,
    case_weights: np.ndarray | None,
    temperatures: Mapping[str, float] | None,
) -> Fitted:
    temperatures = temperatures_of(parts, cases, item_ids) if temperatures is None else temperatures
    p = {name: sharpened(part, temperatures[name]) if name in temperatures else np.exp(part) for name, part in parts.items()}
    if fit == "likelihood":
        weights = _likeliest_shares(p, Targets(item_ids, cases).target)
    else:
        weights, _ = tune_weights(p, cases, item_ids, exclude_seen=exclude_seen, grid=SHARES, case_weights=case_weights)
    return _measured(Fitted(weights, np.zeros(0), How("mixture", fit, temperatures=temperatures)), parts, cases, item_ids, exclude_seen)


def _likeliest_shares(p: Mapping[str, np.ndarray], target: np.ndarray) -> dict[str, float]:
    """The weights under which the targets are likeliest, by expectation and maximisation (Dempster, Laird and Rubin 1977); those of the
    first part are 1, so that the others have up to a million where it explains nothing."""
    rows = np.flatnonzero(target >= 0)
    of_target = np.stack([part[rows, target[rows]] for part in p.values()], 1).astype(np.float64)
    of_target = of_target[of_target.any(1)]
    share = np.full(len(p), 1 / len(p))
    for _ in range(_ROUNDS):
        blame = of_target * share
        share = (blame / blame.sum(1, keepdims=True)).mean(0)
    return {name: round(float(min(s / max(share[0], 1e-6), 1e6)), 4) for name, s in zip(p, share, strict=True)}


def _measured(found: Fitted, parts: Mapping[str, np.ndarray], cases: Sequence[Case], item_ids: Sequence[str], exclude_seen: bool) -> Fitted:
    """With the NDCG@10 of each case."""
    total = found.total(parts, None, np.zeros(len(cases), np.int64))
    return Fitted(found.weights, Targets(item_ids, cases, exclude_seen).ndcg(total), found.how)
