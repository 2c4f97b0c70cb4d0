"""`GRLMForRecommendation`: a causal language model, its tokenizer and its catalog, as one recommender."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, overload

import numpy as np
import torch

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.interactions import History
from grlm_hf.data.items import Item
from grlm_hf.decoding.index import ScoreAdjustment, SearchIndex
from grlm_hf.decoding.rules import ALLOWED, Flags, Rules, SearchOptions, request_of, skip_unknown
from grlm_hf.decoding.sampling import sample
from grlm_hf.decoding.search import search as search_trie
from grlm_hf.engines.choose import engine_of
from grlm_hf.engines.none import NoModel
from grlm_hf.engines.protocol import MAX_LOGITS, Batch
from grlm_hf.identifiers.scheme import Identifier
from grlm_hf.layout import HISTORIES
from grlm_hf.modeling.checkpoint import load_checkpoint, push_checkpoint, save_checkpoint
from grlm_hf.modeling.config import GRLMConfig
from grlm_hf.modeling.dense import Dense, DenseHalf, ItemVectors
from grlm_hf.modeling.living import Shelf
from grlm_hf.modeling.prompter import Prompter
from grlm_hf.modeling.ranked import by_adjustment, ranked, recommendation
from grlm_hf.modeling.results import Recommendations, as_histories
from grlm_hf.priors.awaited import DENSE
from grlm_hf.priors.fused import Fused
from grlm_hf.priors.scores import Counted, log_shares
from grlm_hf.tasks.evidence import Evidence
from grlm_hf.tasks.prompts import prompt_hash
from grlm_hf.tokens import tokenizer_hash
from grlm_hf.trie.arrays import Trie

if TYPE_CHECKING:
    from grlm_hf.modeling.explain import Explanation

_FORCED_RUN = 8  # tokens of a forced run, at a guess: under the full vocabulary each has a row of logits


class GRLMForRecommendation:
    """Recommends items by writing their identifiers; a trie limits the model to those of the catalog.

    Args:
        model: a causal LM of transformers, or an engine (`grlm_hf.engines.protocol.Engine`, such as `grlm_hf.vllm.VLLMEngine`).
        tokenizer: its tokenizer, with a chat template and an EOS token.
        config: as saved; by default made from the parts.
        trie: as saved; built anew by default, and where the given one is not of this catalog.
        prior: recommenders without a language model, for ``recommend(prior="own")`` (`grlm_hf.priors.fused`). The attribute of that name
            may be set later too.
        vectors: of the items, as saved, for ``recommend(decode=False)`` (`grlm_hf.modeling.dense`); by default made at its first use.
        evidence: chooses the lines above a history, for a config with `evidence` (`grlm_hf.tasks.evidence`).

    Attributes:
        engine: runs the model.
        prompter: writes the prompts (`grlm_hf.modeling.prompter.Prompter`).
        shelf: the living catalog (`grlm_hf.modeling.living.Shelf`).
        dense_half: the items' vectors (`grlm_hf.modeling.dense.DenseHalf`).

    Raises `ValueError` if the tokenizer is not the one that the config names, has no EOS or pad token, or exceeds the model's vocabulary;
    the prompts of this version are not those of the training; or the catalog has another identifier scheme than the config.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        catalog: Catalog,
        config: GRLMConfig | None = None,
        trie: Trie | None = None,
        prior: Fused | None = None,
        vectors: ItemVectors | None = None,
        evidence: Evidence | None = None,
    ):
        found = tokenizer_hash(tokenizer)
        config = config or GRLMConfig(scheme=catalog.scheme.name, codebook=catalog.codebook_hash)
        if config.history in HISTORIES and not (config.tokenizer_hash and config.prompt_hash):  # made by hand, not by a training
            prompts = config.prompt_hash or prompt_hash(config.history, catalog.scheme, config.evidence)
            config = replace(config, tokenizer_hash=config.tokenizer_hash or found, prompt_hash=prompts)
        config.check(found, catalog.scheme, catalog.codebook_hash)
        if tokenizer.eos_token_id is None or tokenizer.pad_token_id is None:
            raise ValueError("The tokenizer needs an EOS and a pad token; set tokenizer.eos_token and tokenizer.pad_token.")
        if not config.language_model and prior is None:
            raise ValueError("A recommender without a language model needs a prior; this checkpoint has none. Restore its folder 'prior'.")
        if (evidence.number if evidence else 0) != config.evidence:
            raise ValueError(
                f"The prompts show {config.evidence} lines of evidence; found {evidence and evidence.number}. Give `evidence`."
            )
        self.engine = engine_of(model)
        if isinstance(model, torch.nn.Module):
            model.eval()
        self.tokenizer, self.config, self.prior = tokenizer, config, prior
        self._followed: tuple[Any, ...] = (None, None, None)  # a prior, a catalog, and the prior on that catalog
        index = SearchIndex.build(catalog, tokenizer, trie if trie and trie.of == catalog.identifiers_hash else None)
        self.prompter = Prompter(tokenizer, config, self.engine, evidence)
        self.shelf = Shelf(index, self.prompter)
        self.dense_half = DenseHalf(self.prompter, vectors)
        if prior is not None and DENSE in prior.components:
            self.language_model(f"The part {DENSE!r} of the prior")
        if index.trie.vocab > self.engine.vocabulary:
            raise ValueError(
                f"The tokenizer makes ids up to {index.trie.vocab - 1}, the model has {self.engine.vocabulary} embeddings: they do not "
                "belong together."
            )

    @property
    def model(self) -> Any:
        """The language model, a ``torch.nn.Module``. Raises ``ValueError`` where an engine keeps it."""
        return self.language_model("This")

    def language_model(self, purpose: str) -> Any:
        """`model`; the error of an engine that keeps it says what `purpose` needs it."""
        return self.engine.language_model(purpose)

    @property
    def catalog(self) -> Catalog:
        """The current catalog."""
        return self.shelf.index.catalog

    @property
    def trie(self) -> Trie:
        """The trie of the current catalog."""
        return self.shelf.index.trie

    @property
    def version(self) -> int:
        """Number of changes of the catalog since it was loaded."""
        return self.shelf.index.version

    @property
    def device(self) -> torch.device:
        """Where tensors for the model must be."""
        return self.engine.device

    def to(self, device: torch.device | str) -> GRLMForRecommendation:
        """Moves the model."""
        self.language_model("to()").to(device)
        return self

    @classmethod
    def from_pretrained(
        cls, path_or_repo: str | Path, *, revision: str | None = None, token: str | None = None, model: Any = None,
        backend: str = "transformers", **model_kwargs: Any,
    ) -> GRLMForRecommendation:  # fmt: skip
        """Loads a checkpoint from a folder or the Hub.

        Args:
            model: its language model, if that is loaded already.
            backend: "transformers", or "vllm" to search on vLLM's engine: for serving, without `explain` and ``generate()``.
            model_kwargs: for ``AutoModelForCausalLM.from_pretrained``, or for ``vllm.LLM``.

        Raises `ValueError` if the checkpoint lacks its catalog or its GRLM config, or a newer grlm-hf wrote them.
        """
        parts = load_checkpoint(path_or_repo, revision=revision, token=token, model=model, backend=backend, **model_kwargs)
        return cls(parts.model, parts.tokenizer, parts.catalog, parts.config, parts.trie, parts.prior, parts.vectors, parts.evidence)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the checkpoint: model, tokenizer, catalog, config, prior, and vectors of the items if there are any. It replaces `folder`
        as a whole, or not at all. Raises `ValueError` if `folder` holds other files and no catalog; or the engine keeps the model."""
        index, model = self.shelf.index, self.language_model("Saving") if self.config.language_model else None
        vectors = self.dense_half.on(index).vectors if self.dense_half.vectors else None
        save_checkpoint(
            folder, model, self.tokenizer, index, self.config, self.prior and self.prior_on(index), vectors, self.prompter.evidence
        )

    def without_language_model(self, prior: Fused) -> GRLMForRecommendation:
        """A recommender that ranks by `prior` alone, with this one's catalog and rules: it is saved, served and pushed like any other, and
        needs no GPU. Scores and log-probabilities are natural logs of the prior's probabilities."""
        config = replace(self.config, language_model=False, own_prior=True, evidence=0, prompt_hash="")
        return type(self)(NoModel(), self.tokenizer, self.catalog, config, self.trie, prior)

    def push_to_hub(self, repo_id: str, *, private: bool = True, token: str | None = None) -> str:
        """Publishes the checkpoint with its catalog as a model repository in one commit; returns its URL."""
        return push_checkpoint(self, repo_id, private=private, token=token)

    def add_items(self, items: Sequence[Item], identifiers: Sequence[Identifier] | None = None) -> int:
        """Adds items: they can be recommended, and be in histories, at once; nothing is trained and no token is new.

        Calls that run meanwhile finish with the catalog that they began with.

        Args:
            identifiers: one an item. By default they are extracted from the items' texts, beside those of the catalog
                (`grlm_hf.indexing.extract.TermExtender`), and differ from its identifiers where the text allows. The first such call reads
                the whole catalog, the next ones only what is new.

        Returns the new `version`. Raises `ValueError` for an item_id that the catalog has, an illegal identifier, an identifier or title
        that leaves the model no room, or a scheme whose identifiers do not come from texts. Then nothing is changed.
        """

        def extended(catalog: Catalog) -> Catalog:
            return catalog.add(items, self.shelf.new_identifiers(catalog, items) if identifiers is None else identifiers)

        return self.shelf.change(extended).version

    def remove_items(self, item_ids: Iterable[str]) -> int:
        """Removes items. Returns the new `version`. Raises ``ValueError`` for an unknown id, or when none would be left."""
        item_ids = list(item_ids)
        return self.shelf.change(lambda catalog: catalog.remove(item_ids)).version

    def update_items(self, items: Sequence[Item], identifiers: Sequence[Identifier] | None = None) -> int:
        """Replaces items by others with the same ids, all at once; returns the new `version`. `identifiers`: one an item; by default each
        item keeps its own. Raises `ValueError` for an unknown id, and as `add_items` does."""
        return self.shelf.change(lambda catalog: catalog.update(items, identifiers)).version

    def branch(self) -> GRLMForRecommendation:
        """A recommender with the same model. Its catalog begins as this one's and changes on its own."""
        other = type(self).__new__(type(self))
        other.__dict__ = self.__dict__ | {"shelf": self.shelf.branch()}
        return other

    def with_catalog(self, catalog: Catalog, histories: Iterable[History] = ()) -> GRLMForRecommendation:
        """A recommender with the same model over another catalog, such as that of another shop. Nothing is trained: identifiers are words,
        which the model can write in any catalog. The prior stays behind, since it rates the items of this catalog.

        Args:
            histories: of training with that catalog, for the evidence in prompts; without them, prompts show no evidence.

        Raises `ValueError` for a catalog of another scheme, or of tokens that the tokenizer lacks; items that the model cannot read or
        write; or a recommender without a language model.
        """
        if not self.config.language_model:
            raise ValueError("This recommender has no language model; its prior rates only the items that it was fitted on.")
        lacking = sorted(set(catalog.added_tokens()) - self.tokenizer.get_vocab().keys())
        if catalog.scheme.name != self.config.scheme or lacking:
            which = f"the scheme {catalog.scheme.name!r}, and {len(lacking)} tokens that the tokenizer lacks {lacking[:3]}"
            raise ValueError(
                f"The catalog has {which}; expected the scheme {self.config.scheme!r} and tokens that the model has learnt. Train on with "
                "datasets of this catalog: train.model=CHECKPOINT."
            )
        config, vectors = replace(self.config, own_prior=False), self.dense_half.vectors
        evidence = Evidence.fit(catalog, histories, config.max_history, config.evidence) if config.evidence else None
        other = type(self)(self.engine, self.tokenizer, catalog, config, vectors=vectors, evidence=evidence and replace(evidence, own={}))
        other.prompter.check_capacity(other.shelf.index)
        return other

    @overload
    def recommend(self, history: Sequence[str], k: int = 10, **options: Any) -> Recommendations: ...
    @overload
    def recommend(self, history: Sequence[Sequence[str]], k: int = 10, **options: Any) -> list[Recommendations]: ...
    def recommend(  # type: ignore[misc]  # the overloads leave the options to this signature
        self,
        history: Any,
        k: int = 10,
        *,
        rules: Rules | None = None,
        search: SearchOptions | None = None,
        batch_size: int = 32,
        progress: Callable[[int], None] | None = None,
        **flags: Unpack[Flags],
    ) -> Any:
        """The `k` likeliest next items, best first; distinct and all in the catalog.

        Rules and priors are part of the search: beams go only where something allowed is left, so the answer is that of a search over the
        allowed items alone (probabilities stay those of the whole catalog).

        Args:
            history: item ids, oldest first; or a list of histories. Only the last ``config.max_history`` items are read, fewer
                where the model has no room for them.
            rules: which items may be recommended, and priors (`Rules`). What they leave open is as the checkpoint was evaluated: with
                its own prior or none, and with seen items left out or not (`GRLMConfig`).
            search: how to search (`SearchOptions`).
            batch_size: histories searched at once, at most; fewer where a large vocabulary's logits would take gigabytes.
            progress: called with the number of histories done since the last call.
            flags: the fields of `Rules` and `SearchOptions` as keyword arguments, in place of `rules` and `search`: `allow`, `domain`,
                `exclude`, `banned_terms`, `exclude_seen`, `prior`, `prior_weight`, `prior_form`, `shared`; `num_beams`, `edge_wise`,
                `exact`, `deadline_ms`, `max_forwards`, `length_penalty`, `decode`.

        Returns:
            `Recommendations`, or a list of them, one a history. A history without items gets the most popular ones
            (`Recommendations.answered_by`), where the checkpoint's prior has counted the training events. They hold fewer than `k` items
            where fewer are allowed (possibly none), or where the deadline came first.

        Raises:
            ValueError: an empty history where the checkpoint's prior knows no popularity, an unknown item or domain, `k` below 1 or above
                the catalog's size, `num_beams` below `k` or above the number of identifiers, a mask or prior of the wrong length, a
                negative prior, ``"own"`` without a prior; or scores that are NaN (`grlm_hf.engines.protocol.BrokenModel`).
            TypeError: an unknown flag.
        """
        started = time.perf_counter()
        rules, options = request_of(flags, rules, search, "recommend()")
        rules = self._as_evaluated(rules)
        index = self.shelf.index  # this call's version of the catalog
        histories, single = as_histories(history)
        rules, histories, skipped = skip_unknown(rules, histories, index.catalog)
        n = len(index.trie)
        _check_count("k", k, index.catalog, batch_size)
        width, deadline = options.width(k, n, index.catalog.scheme.noun, f"k={k} items"), options.deadline(started)
        rules = self._with_own_prior(rules, index, histories)
        adjustments = index.adjustments(rules, histories)
        if not self.config.language_model:
            results = self._by_counting(index, histories, k, adjustments, np.asarray(rules.prior))
            for result in results:
                result.skipped = skipped
            return results[0] if single else results
        results = [Recommendations(version=index.version) for _ in histories]
        shares = None if all(histories) else self._popularity(index.catalog)
        full = [i for i, h in enumerate(histories) if h or shares is None]  # without popularity, the prompts refuse an empty history
        for i in sorted(set(range(len(histories))) - set(full)):
            results[i] = by_adjustment(index, shares, k, adjustments[i], "popularity", masks_only=True)  # type: ignore[arg-type]
        if not options.decode:
            self._by_vectors(index, histories, full, k, adjustments, results, progress)
            full = []
        prompts = dict(zip(full, self.prompts(index, [[index.catalog.position(i) for i in histories[h]] for h in full]), strict=True))
        for batch in self._batches(prompts, width, batch_size):
            by_rank = [adjustments[i].by_rank for i in batch]
            asked = self.batch(index, [prompts[i] for i in batch])
            found = search_trie(self.engine, asked, width, options, k=min(k, n), adjustments=by_rank, deadline=deadline)
            for i, one in zip(batch, found, strict=True):
                results[i] = ranked(index, one, k, adjustments[i], options.length_penalty)
            if progress:
                progress(len(batch))
        for result in results:
            result.skipped = skipped
        return results[0] if single else results

    def _batches(self, prompts: Mapping[int, np.ndarray], width: int, batch_size: int) -> list[list[int]]:
        """Rows of `prompts` that are searched together: prompts of similar length, so that there is little padding."""
        rows = width * (_FORCED_RUN if self.config.objective == "vocabulary" else 1)
        size = max(1, min(batch_size, MAX_LOGITS // (rows * self.engine.vocabulary)))
        order = sorted(prompts, key=lambda i: len(prompts[i]))
        return [order[i : i + size] for i in range(0, len(order), size)]

    def _as_evaluated(self, rules: Rules) -> Rules:
        """The rules with what they leave open set as the checkpoint was evaluated."""
        seen = self.config.exclude_seen if rules.exclude_seen is None else rules.exclude_seen
        own = rules.prior is None and self.config.own_prior and self.prior is not None
        if not self.config.language_model and not own and not (isinstance(rules.prior, str) and rules.prior == "own"):
            raise ValueError("This recommender has no language model: it ranks by its own prior alone. Leave prior out.")
        return replace(rules, exclude_seen=seen, prior="own" if own else rules.prior)

    def dense_on(self, index: SearchIndex | None = None) -> Dense:
        """The language model's answer without decoding, as a scorer on a version of the catalog, by default the current one. Missing
        vectors of items are made first. Raises `ValueError` where an engine keeps the model, or there is none."""
        return self.dense_half.on(index or self.shelf.index)

    def _by_vectors(
        self, index: SearchIndex, histories: Sequence[Sequence[str]], rows: Sequence[int], k: int,
        adjustments: Sequence[ScoreAdjustment], results: list[Recommendations], progress: Callable[[int], None] | None,
    ) -> None:  # fmt: skip
        """Fills these rows of `results` with the items that the dense scorer and the adjustments rank first."""
        dense, several = self.dense_on(index), max(1, min(512, MAX_LOGITS // 4 // len(index.catalog)))
        for start in range(0, len(rows), several):
            some = rows[start : start + several]
            for i, score in zip(some, dense.scores([histories[i] for i in some]).astype(np.float64), strict=True):
                results[i] = by_adjustment(index, score, k, adjustments[i], "dense", alone=True)
                results[i].forwards = 1
            if progress:
                progress(len(some))

    def _with_own_prior(self, rules: Rules, index: SearchIndex, histories: Sequence[Sequence[str]]) -> Rules:
        if not isinstance(rules.prior, str) or rules.prior == "none":
            return rules
        prior = self.prior_on(index)
        return replace(rules, **(prior.beside(histories) if self.config.language_model else {"prior": prior.probabilities(histories)}))

    def _by_counting(
        self, index: SearchIndex, histories: Sequence[Sequence[str]], k: int, adjustments: Sequence[ScoreAdjustment], prior: np.ndarray
    ) -> list[Recommendations]:
        """The items that the prior ranks first. Where it knows nothing of a history, or rates all other items alike, the most popular
        ones; without counts the first ones of the catalog. `prior`: float64 [n histories, n_items]."""
        position, shares = index.catalog.position, self._popularity(index.catalog)
        known, zeros, results = self.prior_on(index).known, np.zeros(len(index.catalog)), []
        for history, adjustment, row in zip(histories, adjustments, prior, strict=True):
            seen = [position(item) for item in history]
            others = np.delete(row, seen)
            if known[seen].any() and len(others) and others.max() > others.min() * (1 + 1e-6):
                results.append(by_adjustment(index, zeros, k, adjustment, "counting", ties=shares))
            elif shares is None:
                results.append(by_adjustment(index, zeros, k, adjustment, "catalog"))
            else:
                results.append(by_adjustment(index, shares, k, adjustment, "popularity", masks_only=True))
        return results

    def _popularity(self, catalog: Catalog) -> np.ndarray | None:
        """Float64 [n_items]: each item's log share of the training events, if the checkpoint's prior has counted any of its items."""
        counted = (scorer for scorer, _ in (self.prior.components.values() if self.prior else ()) if isinstance(scorer, Counted))
        if (found := next(counted, None)) is None:
            return None
        count = dict(zip(found.item_ids, found.counts.tolist(), strict=True))
        counts = np.array([count.get(item.item_id, 0) for item in catalog], np.float64)
        return log_shares(counts) if counts.any() else None

    def prior_on(self, index: SearchIndex) -> Fused:
        """`prior` on a version of the catalog; computed once a version. Raises ``ValueError`` where there is no prior."""
        catalog, (prior, of, followed) = index.catalog, self._followed  # one reference, as that to the index
        if self.prior is None:
            raise ValueError("prior='own', but this checkpoint has no prior. Set grlm.prior (grlm_hf.priors.fused), or give weights.")
        if prior is not self.prior or of is not catalog:
            followed = followed if prior is self.prior else self.prior
            if DENSE in followed.components:
                followed = followed.joined({DENSE: (self.dense_on(index), followed.weights[DENSE])})
            followed = followed.following(catalog)
            self._followed = (self.prior, catalog, followed)
        return followed

    def sample(
        self,
        history: Any,
        n: int = 10,
        *,
        temperature: float | Sequence[float] = 1.0,
        seed: int | None = None,
        rules: Rules | None = None,
        batch_size: int = 32,
        **flags: Unpack[Flags],
    ) -> Any:
        """`n` distinct items drawn at random, likeliest first: for diversity, and for rollouts.

        Identifiers are drawn without replacement from the model's distribution over what is allowed (`grlm_hf.decoding.sampling`); items
        that share one come together.

        Args:
            history: item ids, oldest first; or a list of histories.
            temperature: below 1 the likely become likelier; log-probabilities in the answer stay the model's own. One for all tokens of
                an identifier, or one for each: for Semantic IDs one a level, such as ``(1.5, 1.0, 0.5)``, varied first of all in kind.
            seed: the same seed gives the same items.
            rules: which items may be drawn (`Rules`, without priors).
            batch_size: histories drawn for at once.
            flags: `allow`, `domain`, `exclude`, `banned_terms`, `exclude_seen`, in place of `rules`.

        Returns `Recommendations`, or a list of them, one a history; `score` and `log_prob` are equal. Fewer than `n` where fewer are
        allowed. Raises `ValueError` as `recommend` does, and for a temperature that is not above 0.
        """
        rules, _ = request_of(flags, rules, None, "sample()", ALLOWED)
        rules = replace(rules, exclude_seen=self.config.exclude_seen if rules.exclude_seen is None else rules.exclude_seen)
        index = self.shelf.index
        histories, single = as_histories(history)
        rules, histories, skipped = skip_unknown(rules, histories, index.catalog)
        _check_count("n", n, index.catalog, batch_size)
        given = np.atleast_1d(np.asarray(temperature, np.float64))
        if given.ndim != 1 or not given.size or not ((given > 0) & np.isfinite(given)).all():
            raise ValueError(f"temperature={temperature}; expected a finite number above 0, or one for each token of an identifier.")
        prompts = self.prompts(index, [[index.catalog.position(i) for i in h] for h in histories])
        adjustments = index.adjustments(rules, histories)
        rng = np.random.default_rng(seed)
        results = []
        for start in range(0, len(histories), batch_size):
            some = slice(start, start + batch_size)
            by_rank = [a.by_rank for a in adjustments[some]]
            drawn = sample(self.engine, self.batch(index, prompts[some]), min(n, len(index.trie)), rng, by_rank, temperature)
            for (leaf, log_prob), adjustment in zip(drawn, adjustments[some], strict=True):
                found = index.items(leaf, log_prob, adjustment)
                if len(found) > n:  # more items than wanted share these identifiers: each has its chance
                    found = [found[i] for i in sorted(rng.permutation(len(found))[:n])]
                results.append(Recommendations((recommendation(index, r, r.score) for r in found), version=index.version, skipped=skipped))
        return results[0] if single else results

    def prompts(self, index: SearchIndex, positions: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """The prompts of histories, given as positions in ``index.catalog``; see `Prompter.prompts`."""
        return self.prompter.prompts(index, positions)

    def batch(self, index: SearchIndex, prompts: Sequence[np.ndarray]) -> Batch:
        """Prompts as the searches take them, under the checkpoint's objective."""
        return Batch(index.walker, prompts, self.config.objective, self.tokenizer.pad_token_id)

    def prompt_tokens(self, history: Sequence[str]) -> torch.Tensor:
        """The prompt of one history, int64 [1, length] on the model's device: for ``generate()`` and other engines."""
        index = self.shelf.index
        (prompt,) = self.prompts(index, [[index.catalog.position(i) for i in history]])
        return torch.from_numpy(prompt)[None].to(self.device)

    def score(self, histories: Any, items: Any, *, batch_size: int = 32) -> np.ndarray:
        """How likely given items are: the natural log of each one's probability, as `Recommendation.log_prob` of an exact `recommend` with
        seen items kept. Priors are no part of it; without a language model it is the prior's own probability.

        Args:
            histories: one history (item ids, oldest first) with a list of items; or n of them, with one item each or m items each.
            items: item ids [m]; or [n]; or [n, m].
            batch_size: histories computed at once.

        Returns float64 of the shape of `items`; -inf for probability 0. Raises `ValueError` as `recommend` does, and for items of another
        shape.
        """
        from grlm_hf.modeling.score import score

        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}; expected at least 1.")
        return score(self, histories, items, batch_size)

    def explain(self, history: Sequence[str], item_id: str) -> Explanation:
        """What each part of its identifier adds to an item's log-probability, and how much the log-probability falls without each item of
        the history (`grlm_hf.modeling.explain`)."""
        from grlm_hf.modeling.explain import explain

        return explain(self.prompter, self.shelf.index, history, item_id)


def _check_count(name: str, count: int, catalog: Catalog, batch_size: int) -> None:
    if not 1 <= count <= len(catalog):
        raise ValueError(f"{name}={count}; expected 1 to {len(catalog)}, the size of the catalog.")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}; expected at least 1.")
