"""Several scorers as one: Σ weight · log p, with weights chosen on validation cases. A checkpoint can contain it. A weighted sum of
log-probabilities is a product of experts (Hinton 2002): an item ranks high if no expert gives it a low probability. In a mixture,
Σ weight · p, one expert that gives it a high probability is enough. Weights are absolute: a language model's own part has weight 1."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.interactions import Case
from grlm_hf.files import check_replaceable, read_json, replacing, write_json
from grlm_hf.priors.awaited import Awaited
from grlm_hf.priors.ease import EASE
from grlm_hf.priors.how import How, buckets, length_buckets
from grlm_hf.priors.knn import ItemKNN
from grlm_hf.priors.popularity import Popularity
from grlm_hf.priors.scores import Counted, Following, Scorer
from grlm_hf.priors.sequence import SequenceModel
from grlm_hf.priors.text import TextKNN
from grlm_hf.priors.tuning import likeliest_temperature
from grlm_hf.priors.vae import MultVAE
from grlm_hf.tensors import kind_of

_FACTS = "prior.json"
_SCHEMA = 3
_SUFFIX = ".prior"  # safetensors inside; under that name other tools would take it for weights
_KINDS: dict[str, Any] = {c.kind: c for c in (Awaited, EASE, ItemKNN, MultVAE, Popularity, SequenceModel, TextKNN)}
_LEAST = -600.0  # exp of it is above 0: a low prior must not exclude an item


class Fused:
    """Weighted scorers, which together are a scorer.

    An item unknown to a scorer gets that scorer's median over its known items, so that the other scorers decide its rank. A text-kNN
    embeds new items instead.

    Args:
        components: name → (scorer, weight). The name is also the file's name: letters, digits, ``_``, ``-`` and ``+``.
        item_ids: the items to rate, in the order of the columns; by default those of the first scorer.
        temperature: divides the log. It changes no ranking by this scorer alone, only how sure it is (`fit_temperature`).
        how: what is added up (`grlm_hf.priors.how`); by default weighted log-probabilities.

    Raises `ValueError` for no components, an invalid name, a weight that is negative or not finite, a temperature that is not above 0, a
    bias or a gate without a component that counts events, a temperature or a gate of a component that is not there.
    """

    kind: ClassVar[str] = "fused"

    def __init__(
        self,
        components: Mapping[str, tuple[Scorer, float]],
        item_ids: Sequence[str] | None = None,
        temperature: float = 1.0,
        how: How | None = None,
    ):
        if not 0 < temperature < math.inf:
            raise ValueError(f"The temperature is {temperature}; expected a finite number above 0.")
        self.temperature = float(temperature)
        if not components:
            raise ValueError("A fused prior needs at least one component; found none.")
        for name, (_, weight) in components.items():
            _check_name(name)
            if not 0 <= weight < math.inf:
                raise ValueError(f"The weight of {name!r} is {weight}; expected a finite number, 0 or more.")
        self.components = {name: (scorer, float(weight)) for name, (scorer, weight) in components.items()}
        self.item_ids = tuple(next(iter(components.values()))[0].item_ids if item_ids is None else item_ids)
        self.how = how or How()
        if strange := sorted((self.how.gate.keys() | self.how.temperatures.keys()) - self.components.keys()):
            raise ValueError(f"A gate or temperature is of {strange[0]!r}; the prior has {sorted(self.components)}.")
        if self.how.counting and self._counted is None:
            raise ValueError(f"A bias or gate needs a component that counts events, such as item_knn; found {sorted(self.components)}.")

    def __repr__(self) -> str:
        return f"Fused({', '.join(f'{weight:g} · {name}' for name, (_, weight) in self.components.items())}; {len(self.item_ids)} items)"

    @property
    def weights(self) -> dict[str, float]:
        """Name → weight."""
        return {name: weight for name, (_, weight) in self.components.items()}

    @property
    def _counted(self) -> Counted | None:
        return next((scorer for scorer, _ in self.components.values() if isinstance(scorer, Counted)), None)

    @cached_property
    def counts(self) -> np.ndarray | None:
        """int64 `[n_items]`, training events of each item; ``None`` where no component counts them."""
        if (found := self._counted) is None:
            return None
        count = dict(zip(found.item_ids, found.counts.tolist(), strict=True))
        return np.array([count.get(item, 0) for item in self.item_ids], np.int64)

    def weighted(self, weights: Mapping[str, float], how: How | None = None) -> Fused:
        """The same scorers with these weights, put together in that way, without those that have none. A scorer that only counts events
        keeps weight 0. Raises ``ValueError`` for an unknown name."""
        if strange := sorted(weights.keys() - self.components.keys()):
            raise ValueError(f"There is no component {strange[0]!r}; the prior has {sorted(self.components)}.")
        kept = {name: (s, weights[name]) for name, (s, _) in self.components.items() if name in weights}
        how = (how or How()).among(kept)
        if how.counting and not any(isinstance(s, Counted) for s, _ in kept.values()):
            kept |= {name: (s, 0.0) for name, (s, _) in self.components.items() if s is self._counted}
        return Fused(kept, self.item_ids, self.temperature, how)

    def stated(self, found: Mapping[str, Any]) -> Fused:
        """The same scorers, weighted as a block of ``tuning.json`` or ``hybrids.json`` says."""
        return self.weighted(found["weights"], How.of(found))

    def with_counts(self, counted: Popularity) -> Fused:
        """The same scores, with counts of events for histories without a known item: where no component has any, `counted` joins them
        with weight 0."""
        if self._counted is not None:
            return self
        return self.joined({counted.kind: (counted, 0.0)})

    def joined(self, more: Mapping[str, tuple[Scorer, float]]) -> Fused:
        """The same with these components: further ones, or in the place of those with their names."""
        return Fused({**self.components, **more}, self.item_ids, self.temperature, self.how)

    def at(self, temperature: float) -> Fused:
        """The same with another temperature."""
        return Fused(self.components, self.item_ids, temperature, self.how)

    def following(self, catalog: Catalog) -> Fused:
        """The same for the items of a catalog, in its order; cheap after small changes. A text-kNN embeds new texts."""
        ids = tuple(i.item_id for i in catalog)
        parts = {name: (s.following(catalog) if isinstance(s, Following) else s, w) for name, (s, w) in self.components.items()}
        if ids == self.item_ids and all(part is self.components[name][0] for name, (part, _) in parts.items()):
            return self
        return Fused(parts, ids, self.temperature, self.how)

    @cached_property
    def known(self) -> np.ndarray:
        """bool `[n_items]`: the items known to any component with a weight above 0."""
        return np.any([(self._columns[name] >= 0) & (weight > 0) for name, weight in self.weights.items()], axis=0)

    @cached_property
    def _columns(self) -> dict[str, np.ndarray]:
        """int64 [n_items] by component: the scorer's column of each item, -1 for unknown items."""
        found = {}
        for name, (scorer, _) in self.components.items():
            column = {item: c for c, (item, known) in enumerate(zip(scorer.item_ids, scorer.known, strict=True)) if known}
            found[name] = np.fromiter((column.get(item, -1) for item in self.item_ids), np.int64, len(self.item_ids))
        return found

    def parts(self, histories: Sequence[Sequence[str]]) -> dict[str, np.ndarray]:
        """Unweighted scores by component: name → float32 `[n, n_items]`, for `tune_weights`."""
        return {name: self._part(name, histories) for name in self.components}

    def _part(self, name: str, histories: Sequence[Sequence[str]]) -> np.ndarray:
        scorer, columns = self.components[name][0], self._columns[name]
        scores = scorer.scores(histories)
        known = columns >= 0
        if known.all() and scorer.item_ids == self.item_ids:
            return scores
        found = scores[:, np.maximum(columns, 0)]
        if not known.all():
            of_others = scorer.known
            found[:, ~known] = np.median(scores[:, of_others], 1, keepdims=True) if of_others.any() else 0
        return found

    def scores(self, histories: Sequence[Sequence[str]]) -> np.ndarray:
        """float32 `[n, n_items]`: Σ weight · log p / temperature of each item, or what `how` says, so that a row's probabilities sum to 1;
        see `Scorer`."""
        parts = ((name, weight, self._part(name, histories)) for name, weight in self.weights.items() if weight)
        bucket = buckets(self.counts) if self.counts is not None else None
        total = self.how.total(parts, bucket, length_buckets(histories), len(self.item_ids))
        if self.temperature != 1:
            total /= np.float32(self.temperature)
        total -= total.max(1, keepdims=True)
        total -= np.log(np.exp(total).sum(1, dtype=np.float64))[:, None].astype(np.float32)
        return total

    def probabilities(self, histories: Sequence[Sequence[str]]) -> np.ndarray:
        """float64 `[n, n_items]`, above 0: a `prior` for `GRLMForRecommendation.recommend`."""
        return np.exp(np.maximum(self.scores(histories), _LEAST), dtype=np.float64)

    def beside(self, histories: Sequence[Sequence[str]]) -> dict[str, Any]:
        """The arguments of `GRLMForRecommendation.recommend` that put this prior beside a language model with weight 1."""
        if self.how.form != "mixture":
            return {"prior": self.probabilities(histories), "prior_form": "product"}
        return {"prior": self.probabilities(histories) * sum(self.weights.values()), "prior_form": "mixture"}

    def save(self, folder: str | Path) -> None:
        """Writes ``prior.json`` and one file per component, replacing `folder` as a whole. Raises ``ValueError`` if `folder` has other
        content, and for a component without a file format."""
        check_replaceable(folder, _FACTS)
        with replacing(folder) as new:
            new.mkdir()
            stated = []
            for name, (scorer, weight) in self.components.items():
                if getattr(scorer, "kind", None) not in _KINDS:
                    raise ValueError(
                        f"The component {name!r} is a {type(scorer).__name__}, which has no file; expected one of {sorted(_KINDS)}."
                    )
                scorer.save(new / f"{name}{_SUFFIX}")  # type: ignore[attr-defined]
                stated.append({"name": name, "kind": scorer.kind, "weight": weight, "items": _hash(scorer.item_ids)})  # type: ignore[attr-defined]
            more: dict[str, Any] = {} if self.temperature == 1 else {"temperature": self.temperature}
            more |= self.how.facts
            # An earlier grlm-hf would pass over a bias, or a form, in silence.
            schema = _SCHEMA if self.how.form != "product" else 2 if self.how.bias else 1
            write_json(new / _FACTS, {"schema": schema, "components": stated, **more})

    @classmethod
    def load(cls, folder: str | Path) -> Fused:
        """Reads what `save` wrote, with the items of its first component; `following` adapts it to a catalog. Raises ``ValueError`` for a
        part that is missing, broken, of other items than stated, or from a newer grlm-hf."""
        folder = Path(folder)
        facts = read_json(folder / _FACTS)
        if not isinstance(facts, dict) or not isinstance(facts.get("schema"), int):
            raise ValueError(f"{folder / _FACTS} states no schema version; expected {_SCHEMA}.")
        if facts["schema"] > _SCHEMA:
            raise ValueError(f"{folder} has prior schema {facts['schema']}; this grlm-hf reads up to {_SCHEMA}. pip install -U grlm-hf")
        components = {}
        try:
            for stated in facts["components"]:
                _check_name(stated["name"])  # no path out of the folder
                scorer = _KINDS[stated["kind"]].load(folder / f"{stated['name']}{_SUFFIX}")
                if _hash(scorer.item_ids) != stated["items"]:
                    raise ValueError(f"{folder / stated['name']}{_SUFFIX} has other items than {_FACTS} states. Restore the whole folder.")
                components[stated["name"]] = (scorer, stated["weight"])
            return cls(components, temperature=facts.get("temperature", 1.0), how=How.of(facts))
        except (KeyError, TypeError) as error:
            raise ValueError(f"{folder / _FACTS} is not a prior that this grlm-hf reads ({error!r}). Make it again.") from error


def load_scorer(path: str | Path) -> Scorer:
    """A recommender that `save` of any kind wrote: the folder of a `Fused`, or the file of one of its components. Raises ``ValueError`` if
    the path is neither."""
    if (Path(path) / _FACTS).is_file():
        return Fused.load(path)
    if not Path(path).is_file():
        raise ValueError(f"There is no recommender at {path}; expected the folder of a prior, or a file such as priors/sasrec.prior.")
    if (kind := kind_of(path)) not in _KINDS:
        found = f"a file of the kind {kind!r}" if kind else "no file of grlm-hf, or it is broken"
        raise ValueError(f"{path} is {found}; expected a recommender of one of the kinds {', '.join(_KINDS)}.")
    return _KINDS[kind].load(path)


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[\w+-]+", name):
        raise ValueError(f"The component is called {name!r}; expected letters, digits, '_', '-' and '+'.")


def _hash(item_ids: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(item_ids).encode()).hexdigest()[:16]


def fit_temperature(prior: Fused, cases: Sequence[Case]) -> tuple[float, float, float]:
    """The temperature under which validation targets are likeliest, and their mean negative log-likelihood (nats) before and after.

    A product of experts is too sure of itself, since each expert counts the same evidence again. Targets outside the items are left out.

    Raises `ValueError` where no target is among the items.
    """
    column = {item: n for n, item in enumerate(prior.item_ids)}
    known = [case for case in cases if case.target in column]
    rows = max(1, 2**24 // len(prior.item_ids))
    chunks = (known[start : start + rows] for start in range(0, len(known), rows))
    return likeliest_temperature(
        (prior.scores([c.history for c in some]) * np.float32(prior.temperature), np.array([column[c.target] for c in some]))
        for some in chunks
    )
