"""`GRLMForRecommendation`: a causal language model, its tokenizer and its catalog, as one checkpoint.

The checkpoint is an ordinary causal-LM repository, so ``AutoModelForCausalLM.from_pretrained`` and other tools load it unchanged,
with two files more: ``catalog.parquet`` and ``grlm_config.json``; and the folder ``prior`` where it has one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.items import Item
from grlm_hf.decoding.grounding import Grounder
from grlm_hf.decoding.index import Bonus, SearchIndex
from grlm_hf.decoding.sampling import sample
from grlm_hf.decoding.search import Found, search
from grlm_hf.files import check_replaceable, read_json, replacing, write_json
from grlm_hf.identifiers.terms import TermID, parse
from grlm_hf.indexing.collisions import resolve_new
from grlm_hf.indexing.extract import TermExtender
from grlm_hf.layout import BACKENDS, CATALOG_FILE, CONFIG_FILE, CONFIG_SCHEMA, CUSTOM_GENERATE, OBJECTIVES, PRIOR_FOLDER, TRIE_FILE
from grlm_hf.modeling.config import GRLMConfig
from grlm_hf.modeling.results import Recommendation, Recommendations, as_histories
from grlm_hf.priors.fused import Fused
from grlm_hf.tasks.encoding import history_tokens
from grlm_hf.tasks.prompts import check_history, prompt_hash
from grlm_hf.tokens import tokenizer_hash
from grlm_hf.trie.arrays import Trie

if TYPE_CHECKING:
    from grlm_hf.modeling.explain import Explanation

MAX_LOGITS = 2**28
"""Logits that a forward of a search may make, roughly: one gigabyte in float32."""
MIN_BEAMS = 20
"""Width of the search at least, as in the paper."""


class GRLMForRecommendation:
    """Recommends items by writing their Term IDs, held to the catalog by a trie.

    Args:
        model: a causal LM of transformers, or an engine (`grlm_hf.vllm.VLLMModel`).
        tokenizer: its tokenizer, with a chat template and an EOS token.
        catalog: the items and their Term IDs.
        config: as saved; by default made from the parts.
        trie: as saved; by default, or where it is not of this catalog, made anew.
        prior: recommenders without a language model that ``recommend(prior="own")`` heeds (`grlm_hf.priors.fused`); the attribute of that
            name may be set later too.

    Raises:
        ValueError: the tokenizer is not the one that the config names, has no EOS or pad token, or exceeds the model's vocabulary; or
            the prompts of this version are not those that the checkpoint was trained with.
    """

    def __init__(self, model: Any, tokenizer: Any, catalog: Catalog, config: GRLMConfig | None = None, trie: Trie | None = None,
                 prior: Fused | None = None):  # fmt: skip
        found = tokenizer_hash(tokenizer)
        config = config or GRLMConfig(prompt_hash=prompt_hash(), tokenizer_hash=found)
        if config.tokenizer_hash != found:
            raise ValueError(
                f"The tokenizer (hash {found}) is not the one that this checkpoint was trained with (hash {config.tokenizer_hash}); its "
                "trie would not match the labels. Restore the checkpoint's own tokenizer files."
            )
        if config.objective not in OBJECTIVES:
            raise ValueError(f"The checkpoint's objective is {config.objective!r}; expected one of {OBJECTIVES}.")
        check_history(config.history)
        if config.prompt_hash != (written := prompt_hash(config.history)):
            raise ValueError(
                f"This checkpoint was trained with other prompts (hash {config.prompt_hash}; this grlm-hf writes {written}). "
                "Use the grlm-hf version that trained it, or train again."
            )
        if tokenizer.eos_token_id is None or tokenizer.pad_token_id is None:
            raise ValueError("The tokenizer needs an EOS and a pad token; set tokenizer.eos_token and tokenizer.pad_token.")
        self.model = model.eval() if hasattr(model, "eval") else model
        self.tokenizer = tokenizer
        self.config = config
        self.prior = prior
        self._followed: tuple[Any, ...] = (None, None, None)  # a prior, a catalog, and the prior on that catalog
        # One reference to an immutable value: readers see all of an update or nothing of it.
        self._index = SearchIndex.build(catalog, tokenizer, trie if trie and trie.of == catalog.identifiers_hash else None)
        self._writing = threading.Lock()
        self._extend_terms = TermExtender()
        if self.trie.vocab > self._vocabulary:
            raise ValueError(
                f"The tokenizer makes ids up to {self.trie.vocab - 1}, the model has {self._vocabulary} embeddings: they do not belong "
                "together."
            )

    @property
    def catalog(self) -> Catalog:
        """The catalog as it is now."""
        return self._index.catalog

    @property
    def trie(self) -> Trie:
        """The trie of the catalog as it is now."""
        return self._index.trie

    @property
    def version(self) -> int:
        """How often the catalog has changed since it was loaded."""
        return self._index.version

    @property
    def device(self) -> torch.device:
        """Where tensors for the model are to be; an engine takes them from the CPU."""
        return torch.device("cpu") if hasattr(self.model, "prefixes") else self.model.get_input_embeddings().weight.device

    @property
    def _vocabulary(self) -> int:
        """Rows of the model's embeddings."""
        return getattr(self.model, "vocabulary", None) or self.model.get_input_embeddings().weight.shape[0]

    def to(self, device: torch.device | str) -> GRLMForRecommendation:
        """Moves the model."""
        self.model.to(device)
        return self

    # --- on disk and on the Hub ----------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls, path_or_repo: str | Path, *, revision: str | None = None, token: str | None = None, model: Any = None,
        backend: str = "transformers", **model_kwargs: Any,
    ) -> GRLMForRecommendation:  # fmt: skip
        """Loads a checkpoint from a folder or the Hub.

        Args:
            model: its language model, if that is loaded already.
            backend: "transformers", or "vllm" to search on vLLM's engine: for serving, without `explain` and ``generate()``.
            model_kwargs: for ``AutoModelForCausalLM.from_pretrained``, or of ``vllm.LLM``.

        Raises:
            ValueError: the checkpoint lacks its catalog or its GRLM config, or a newer grlm-hf wrote them.
        """
        if backend not in BACKENDS:
            raise ValueError(f"backend is {backend!r}; expected one of {BACKENDS}.")
        folder = Path(path_or_repo)
        if not folder.is_dir():
            from grlm_hf.hub import fetch_checkpoint

            folder = fetch_checkpoint(str(path_or_repo), revision=revision, token=token)
        for name in (CATALOG_FILE, CONFIG_FILE):
            if not (folder / name).is_file():
                raise ValueError(
                    f"{path_or_repo} holds no {name}: it is not a GRLM checkpoint (a plain language model?). "
                    "Train one with `grlm train`, or join the parts: "
                    "GRLMForRecommendation(model, tokenizer, catalog).save_pretrained(folder)."
                )
        values = read_json(folder / CONFIG_FILE)
        known = {f.name for f in fields(GRLMConfig)}
        if not isinstance(values, dict) or not isinstance(values.get("schema"), int):
            raise ValueError(f"{folder / CONFIG_FILE} states no schema version; expected {CONFIG_SCHEMA}.")
        if values["schema"] > CONFIG_SCHEMA:
            raise ValueError(
                f"{path_or_repo} has config schema {values['schema']}; this grlm-hf reads up to {CONFIG_SCHEMA}. pip install -U grlm-hf"
            )
        if not known - {"history", "max_tokens"} <= values.keys() <= known:  # those two came later
            raise ValueError(f"{folder / CONFIG_FILE} holds {sorted(values)}; expected {sorted(known)}.")
        catalog = Catalog.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        for name in ("is_local", "local_files_only"):  # how it was loaded is not to be saved with it
            tokenizer.init_kwargs.pop(name, None)
        trie = Trie.load(folder / TRIE_FILE) if (folder / TRIE_FILE).is_file() else None
        if model is None and backend == "vllm":
            from grlm_hf.vllm.engine import VLLMModel, start_for_searches

            model = VLLMModel(start_for_searches(str(folder), **model_kwargs))
        elif model is None:
            model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, use_safetensors=True, **model_kwargs)
        prior = Fused.load(folder / PRIOR_FOLDER) if (folder / PRIOR_FOLDER).is_dir() else None
        return cls(model, tokenizer, catalog, GRLMConfig(**values), trie, prior)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the checkpoint: model, tokenizer, catalog, config and prior. It takes the place of `folder` as a whole, or not at all.

        Raises:
            ValueError: `folder` holds other files and no catalog; or the model is an engine, which keeps its weights to itself.
        """
        self._needs_transformers("saving")
        check_replaceable(folder, CATALOG_FILE)
        index = self._index
        with replacing(folder) as new:
            self.model.generation_config = GenerationConfig(  # greedy and unpenalised: nothing that would bend the scores
                eos_token_id=self.tokenizer.eos_token_id, pad_token_id=self.tokenizer.pad_token_id
            )
            self.model.save_pretrained(new)
            self.tokenizer.save_pretrained(new)
            index.catalog.save_pretrained(new)
            write_json(new / CONFIG_FILE, asdict(self.config))
            index.trie.save(new / TRIE_FILE, index.catalog.identifiers_hash)
            if self.prior:
                self._prior_of(index.catalog).save(new / PRIOR_FOLDER)
            for name, text in CUSTOM_GENERATE.items():
                (new / name).parent.mkdir(exist_ok=True)
                (new / name).write_text(text, encoding="utf-8")

    def push_to_hub(self, repo_id: str, *, private: bool = True, token: str | None = None) -> str:
        """Publishes the checkpoint with its catalog as a model repository in one commit; returns its URL."""
        import tempfile

        from grlm_hf.hub import push_folder

        with tempfile.TemporaryDirectory() as work:
            self.save_pretrained(Path(work) / "checkpoint")
            return push_folder(Path(work) / "checkpoint", repo_id, private=private, token=token)

    # --- a living catalog ----------------------------------------------------------------------------------------------------------

    def add_items(self, items: Sequence[Item], term_ids: Sequence[TermID] | None = None) -> int:
        """Adds items: they can be recommended, and stand in histories, at once; nothing is trained and no token is new.

        Calls that run meanwhile go on with the catalog that they began with.

        Args:
            term_ids: one an item; by default they are extracted from the items' texts, beside those of the catalog
                (`grlm_hf.indexing.extract.TermExtender`), and told apart from theirs where the text allows; the first such call reads
                the whole catalog, the next ones what is new.

        Returns:
            The new `version`.

        Raises:
            ValueError: an item_id that the catalog has already, an illegal Term ID; then nothing is changed.
        """

        def extended(catalog: Catalog) -> Catalog:
            return catalog.add(items, resolve_new(catalog, items, self._extend_terms(catalog, items)) if term_ids is None else term_ids)

        return self._change(extended)

    def remove_items(self, item_ids: Iterable[str]) -> int:
        """Removes items. Returns the new `version`. Raises ``ValueError`` for an unknown id, or when none would be left."""
        item_ids = list(item_ids)
        return self._change(lambda catalog: catalog.remove(item_ids))

    def update_items(self, items: Sequence[Item], term_ids: Sequence[TermID] | None = None) -> int:
        """Replaces items by others of the same ids, all at once. Returns the new `version`.

        Args:
            term_ids: one an item; by default each keeps its own.

        Raises:
            ValueError: an unknown id.
        """
        return self._change(lambda catalog: catalog.update(items, term_ids))

    def _change(self, change: Callable[[Catalog], Catalog]) -> int:
        with self._writing:
            new = self._index.updated(change(self._index.catalog), self.tokenizer)
            if new.trie.vocab > self._vocabulary:
                raise ValueError(f"A new Term ID uses token {new.trie.vocab - 1}; the model has {self._vocabulary} embeddings.")
            self._index = new
            return new.version

    # --- recommending --------------------------------------------------------------------------------------------------------------

    @overload
    def recommend(self, history: Sequence[str], k: int = 10, **options: Any) -> Recommendations: ...
    @overload
    def recommend(self, history: Sequence[Sequence[str]], k: int = 10, **options: Any) -> list[Recommendations]: ...
    def recommend(  # type: ignore[misc]  # the overloads leave the options to this signature
        self,
        history: Any,
        k: int = 10,
        *,
        exclude_seen: bool = False,
        allow: Collection[str] | np.ndarray | None = None,
        domain: str | None = None,
        exclude: Collection[str] = (),
        banned_terms: Collection[str] = (),
        prior: str | Mapping[str, float] | np.ndarray | None = None,
        prior_weight: float = 1.0,
        shared: str = "full",
        length_penalty: float = 0.0,
        num_beams: int | None = None,
        edge_wise: bool = False,
        exact: bool = False,
        deadline_ms: float | None = None,
        max_forwards: int | None = None,
        batch_size: int = 32,
        progress: Callable[[int], None] | None = None,
    ) -> Any:
        """The `k` likeliest next items, best first; distinct and all in the catalog.

        Rules and priors are part of the search: beams go only where something allowed is left, so the answer is that of a search over the
        allowed items alone (probabilities stay those of the whole catalog).

        Args:
            history: item ids, oldest first; or a list of histories. Only the last ``config.max_history`` items are read, fewer
                where the model has no room for them.
            exclude_seen: leave out all items of the history (also those too old to be read).
            allow: recommend these only: ids, or a bool mask over the catalog.
            domain: recommend items of this domain only (``catalog.domains``); as `allow` with all of them, and cheaper.
            exclude: leave out these ids.
            banned_terms: leave out items that have one of these terms.
            prior: a non-negative weight for each item, float [n_items], or [n_histories, n_items]; or by id for some, the others having 1.
                Items rank by ``log p(Term ID | history) + prior_weight · log prior``; weight 0 leaves an item out. Or ``"own"``: what
                the checkpoint's `prior` says after each history.
            prior_weight: λ.
            shared: what items that share a Term ID get of its probability: ``"full"``, each all of it; ``"equal"``, the same part each;
                ``"prior"``, in proportion to their priors.
            length_penalty: rank by ``log p / tokens ** length_penalty``; log-probabilities alone favour Term IDs of few tokens.
            num_beams: width of the search, by default the larger of 20 and `k`; a wider search is nearer to exact, and slower.
            edge_wise: search from choice to choice instead of from token to token: fewer forwards, but not quite the beams that
                transformers' ``generate()`` would keep.
            exact: find the true best `k` and certify them: ``Recommendations.certified`` and ``gap`` say how far it came.
            deadline_ms: stop an exact search after so many milliseconds and return the best found so far.
            max_forwards: the same as a number of forwards, each batch.
            batch_size: histories searched at once, at most; fewer where a large vocabulary's logits would take gigabytes.
            progress: called with the number of histories done since the last call.

        Returns:
            `Recommendations`, or a list of them, one a history. They hold fewer than `k` items where no more are allowed (none at all is a
            possible answer), or where the deadline came first.

        Raises:
            ValueError: an empty history, an unknown item or domain, `k` below 1 or above the catalog's size, `num_beams` below `k` or above
                the number of Term IDs, a mask or prior of the wrong length, a negative prior, ``"own"`` where there is none.
        """
        started = time.perf_counter()
        index = self._index  # this call's version of the catalog
        histories, single = as_histories(history)
        catalog, n = index.catalog, len(index.trie)
        if not 1 <= k <= len(catalog):
            raise ValueError(f"k={k}; expected 1 to {len(catalog)}, the size of the catalog.")
        if num_beams is not None and not min(k, n) <= num_beams <= n:
            raise ValueError(f"num_beams={num_beams}; expected {min(k, n)} (for k={k} items) to {n}, the number of Term IDs.")
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}; expected at least 1.")
        if not 0 <= length_penalty < float("inf"):
            raise ValueError(f"length_penalty={length_penalty}; expected a finite number of at least 0.")
        if deadline_ms is not None and not deadline_ms >= 0:
            raise ValueError(f"deadline_ms={deadline_ms}; expected at least 0 milliseconds.")
        if max_forwards is not None and max_forwards < 1:
            raise ValueError(f"max_forwards={max_forwards}; expected at least 1, which computes the prompt.")
        if not exact and (deadline_ms is not None or max_forwards is not None):
            raise ValueError("deadline_ms and max_forwards limit an exact search; add exact=True.")
        deadline = None if deadline_ms is None else started + deadline_ms / 1000
        positions = [[catalog.position(i) for i in h] for h in histories]
        prompts = self._prompts(index, positions)
        if isinstance(prior, str):
            if prior != "own":
                raise ValueError(f"prior is {prior!r}; expected 'own', weights of items, or None.")
            prior = self._prior_of(catalog).probabilities(histories)
        bonuses = index.bonuses(
            histories, exclude_seen=exclude_seen, allow=allow, domain=domain, exclude=exclude, banned_terms=banned_terms, prior=prior,
            prior_weight=prior_weight, shared=shared,
        )  # fmt: skip
        results = [Recommendations(version=index.version) for _ in histories]

        width = min(num_beams or max(MIN_BEAMS, k), n)
        # Rows of logits a history: a beam each; under the full vocabulary also the runs of forced tokens, eight tokens at a guess.
        rows = width * (8 if self.config.objective == "vocabulary" else 1)
        batch_size = max(1, min(batch_size, MAX_LOGITS // (rows * self._vocabulary)))
        # Users of a like prompt length share a batch: padding is little.
        order = sorted(range(len(histories)), key=lambda i: len(prompts[i]))
        for batch in (order[i : i + batch_size] for i in range(0, len(order), batch_size)):
            answers = search(
                self.model, index.walker, [prompts[i] for i in batch], width, self.config.objective, k=min(k, n),
                bonus=[bonuses[i].by_rank for i in batch], length_penalty=length_penalty, pad_token_id=self.tokenizer.pad_token_id,
                edge_wise=edge_wise, exact=exact, deadline=deadline, max_forwards=max_forwards,
            )  # fmt: skip
            for i, found in zip(batch, answers, strict=True):
                results[i] = self._ranked(index, found, k, bonuses[i], length_penalty)
            if progress:
                progress(len(batch))
        return results[0] if single else results

    def _prior_of(self, catalog: Catalog) -> Fused:
        """The prior on a version of the catalog; made once, from that of the version before."""
        prior, of, followed = self._followed  # one reference, as that to the index
        if self.prior is None:
            raise ValueError("prior='own', but this checkpoint has no prior. Set grlm.prior (grlm_hf.priors.fused), or give weights.")
        if prior is not self.prior or of is not catalog:
            followed = (followed if prior is self.prior else self.prior).following(catalog)
            self._followed = (self.prior, catalog, followed)
        return followed

    def _ranked(self, index: SearchIndex, found: Found, k: int, bonus: Bonus, length_penalty: float) -> Recommendations:
        catalog = index.catalog
        score = found.log_prob
        if length_penalty:
            score = score / index.walker.length(index.trie.rank[found.leaf]).astype(np.float64) ** length_penalty
        ranked = index.items(found.leaf, score, bonus)[:k]
        items = (
            Recommendation(catalog.items[p].item_id, s, catalog.term_ids[p], catalog.items[p].title, float(found.log_prob[i]))
            for p, s, i in ranked
        )
        return Recommendations(items, found.certified, found.gap, found.forwards, index.version)

    def sample(
        self,
        history: Any,
        n: int = 10,
        *,
        temperature: float = 1.0,
        seed: int | None = None,
        exclude_seen: bool = False,
        allow: Collection[str] | np.ndarray | None = None,
        domain: str | None = None,
        exclude: Collection[str] = (),
        banned_terms: Collection[str] = (),
        batch_size: int = 32,
    ) -> Any:
        """`n` distinct items drawn at random, likeliest first: for diversity, and for rollouts.

        Term IDs are drawn without replacement from the model's distribution over what is allowed (`grlm_hf.decoding.sampling`); items that
        share one come together.

        Args:
            history: item ids, oldest first; or a list of histories.
            temperature: below 1 the likely become likelier; log-probabilities in the answer stay the model's own.
            seed: the same seed gives the same items.
            exclude_seen, allow, domain, exclude, banned_terms: as in `recommend`.
            batch_size: histories drawn for at once.

        Returns:
            `Recommendations`, or a list of them, one a history; `score` and `log_prob` are equal. Fewer than `n` where fewer are allowed.

        Raises:
            ValueError: as `recommend`; a temperature that is not above 0.
        """
        index = self._index
        histories, single = as_histories(history)
        if not 1 <= n <= len(index.catalog):
            raise ValueError(f"n={n}; expected 1 to {len(index.catalog)}, the size of the catalog.")
        if not 0 < temperature < float("inf"):
            raise ValueError(f"temperature={temperature}; expected a finite number above 0.")
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}; expected at least 1.")
        prompts = self._prompts(index, [[index.catalog.position(i) for i in h] for h in histories])
        bonuses = index.bonuses(
            histories, exclude_seen=exclude_seen, allow=allow, domain=domain, exclude=exclude, banned_terms=banned_terms, prior=None,
            prior_weight=1.0, shared="full",
        )  # fmt: skip
        rng = np.random.default_rng(seed)
        results = []
        for start in range(0, len(histories), batch_size):
            some = slice(start, start + batch_size)
            drawn = sample(
                self.model, index.walker, prompts[some], min(n, len(index.trie)), self.config.objective, rng,
                bonus=[b.by_rank for b in bonuses[some]], temperature=temperature, pad_token_id=self.tokenizer.pad_token_id,
            )  # fmt: skip
            for (leaf, log_prob), bonus in zip(drawn, bonuses[some], strict=True):
                found = index.items(leaf, log_prob, bonus)
                if len(found) > n:  # Term IDs that items share: as many as are wanted, each with its chance
                    found = [found[i] for i in sorted(rng.permutation(len(found))[:n])]
                results.append(
                    Recommendations(
                        (Recommendation(index.catalog.items[p].item_id, s, index.catalog.term_ids[p], index.catalog.items[p].title, s)
                         for p, s, _ in found),
                        version=index.version,
                    )
                )  # fmt: skip
        return results[0] if single else results

    def _needs_transformers(self, what: str) -> None:
        if not isinstance(self.model, torch.nn.Module):
            raise ValueError(f"{what} needs the model itself, which an engine keeps; load the checkpoint with backend='transformers'.")

    def prompt_tokens(self, history: Sequence[str]) -> torch.Tensor:
        """The prompt of one history, int64 [1, length] on the model's device: for ``generate()`` and other engines."""
        index = self._index
        (prompt,) = self._prompts(index, [[index.catalog.position(i) for i in history]])
        return torch.from_numpy(prompt)[None].to(self.device)

    def _prompts(self, index: SearchIndex, positions: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """What the model reads of each history: its last items, as many as ``config.max_history``, and as leave room for the answer.

        The last item is always read, also where it exceeds ``config.max_tokens``, which is a budget of training. Raises ``ValueError``
        where it exceeds what the model can take.
        """
        most = getattr(self.model, "max_length", None) or getattr(self.model.config, "max_position_embeddings", None)
        room = min((n - index.trie.depth - 1 for n in (self.config.max_tokens, most) if n), default=None)
        shown = [p[-self.config.max_history :] for p in positions]
        prompts = history_tokens(
            self.tokenizer,
            {q: index.path(q) for p in shown for q in p},
            shown,
            index.catalog,
            history=self.config.history,
            max_tokens=room,
        )
        if most and (longest := max(map(len, prompts), default=0)) > most - index.trie.depth - 1:
            raise ValueError(
                f"A prompt with one item has {longest} tokens, its answer up to {index.trie.depth + 1}; the model takes {most} in all. "
                "Use a model that takes longer texts."
            )
        return prompts

    def explain(self, history: Sequence[str], item_id: str) -> Explanation:
        """What each term adds to an item's log-probability, and what it loses without each item of the history
        (`grlm_hf.modeling.explain`)."""
        from grlm_hf.modeling.explain import explain

        self._needs_transformers("explain()")
        return explain(self, history, item_id)

    @torch.inference_mode()
    def write_freely(self, history: Sequence[str], num_beams: int = 20, max_new_tokens: int = 48) -> list[TermID | None]:
        """What the model writes without the trie: `num_beams` texts, best first, each parsed as a Term ID or ``None``.

        For measuring and for grounding (`grlm_hf.decoding.grounding`); a text may name no item.
        """
        self._needs_transformers("write_freely()")
        prompt = self.prompt_tokens(history)
        out = self.model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            num_beams=num_beams,
            num_return_sequences=num_beams,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            length_penalty=0.0,
            stop_strings=["\n"],
            tokenizer=self.tokenizer,
        )
        return [parse(text) for text in self.tokenizer.batch_decode(out[:, prompt.shape[1] :], skip_special_tokens=True)]

    def grounder(self, form: str = "paper") -> Grounder:
        """Elastic Identifier Grounding onto this catalog; see `grlm_hf.decoding.grounding`."""
        return Grounder(self.catalog, form)
