"""`GRLMForRecommendation`: a causal language model, its tokenizer and its catalog, as one checkpoint.

The checkpoint is an ordinary causal-LM repository, so ``AutoModelForCausalLM.from_pretrained`` and other tools load it unchanged,
with two files more: ``catalog.parquet`` and ``grlm_config.json``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from grlm_hf.catalog import CATALOG_FILE, Catalog
from grlm_hf.decoding.grounding import Grounder
from grlm_hf.decoding.search import beam_search
from grlm_hf.decoding.trie import Trie
from grlm_hf.decoding.walker import OBJECTIVES, TrieWalker
from grlm_hf.files import check_replaceable, read_json, replacing, write_json
from grlm_hf.identifiers.terms import TermID, parse
from grlm_hf.tasks.prompts import history_tokens, identifier_tokens, prompt_hash, tokenizer_hash

CONFIG_FILE = "grlm_config.json"
CONFIG_SCHEMA = 1
MIN_BEAMS = 20
"""Width of the search at least, as in the paper."""


@dataclass(frozen=True)
class GRLMConfig:
    """What a checkpoint states beside the language model's own config."""

    max_history: int = 20
    """Items of a history that a prompt shows."""
    prompt_hash: str = ""
    """`grlm_hf.tasks.prompts.prompt_hash` at training time."""
    tokenizer_hash: str = ""
    """`grlm_hf.tasks.prompts.tokenizer_hash` of the tokenizer trained with."""
    objective: str = "vocabulary"
    """What the training loss, and so every score, is normalised over (`grlm_hf.decoding.walker.OBJECTIVES`)."""
    schema: int = CONFIG_SCHEMA


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One recommended item. `score` is the natural-log probability of its Term ID after the history, normalised over the full vocabulary
    or over the trie's legal children, as the checkpoint was trained (`GRLMConfig.objective`). Items that share a Term ID share the
    score and stand in ascending order of item_id."""

    item_id: str
    score: float
    term_id: TermID
    title: str


class GRLMForRecommendation:
    """Recommends items by writing their Term IDs, held to the catalog by a trie.

    Args:
        model: a causal LM of transformers.
        tokenizer: its tokenizer, with a chat template and an EOS token.
        catalog: the items and their Term IDs.
        config: as saved; by default made from the parts.

    Raises:
        ValueError: the tokenizer is not the one that the config names, has no EOS or pad token, or exceeds the model's vocabulary; or
            the prompts of this version are not those that the checkpoint was trained with.
    """

    def __init__(self, model: Any, tokenizer: Any, catalog: Catalog, config: GRLMConfig | None = None):
        found = tokenizer_hash(tokenizer)
        config = config or GRLMConfig(prompt_hash=prompt_hash(), tokenizer_hash=found)
        if config.tokenizer_hash != found:
            raise ValueError(
                f"The tokenizer (hash {found}) is not the one that this checkpoint was trained with (hash {config.tokenizer_hash}); its "
                "trie would not match the labels. Restore the checkpoint's own tokenizer files."
            )
        if config.objective not in OBJECTIVES:
            raise ValueError(f"The checkpoint's objective is {config.objective!r}; expected one of {OBJECTIVES}.")
        if config.prompt_hash != prompt_hash():
            raise ValueError(
                f"This checkpoint was trained with other prompts (hash {config.prompt_hash}; this grlm-hf writes {prompt_hash()}). "
                "Use the grlm-hf version that trained it, or train again."
            )
        if tokenizer.eos_token_id is None or tokenizer.pad_token_id is None:
            raise ValueError("The tokenizer needs an EOS and a pad token; set tokenizer.eos_token and tokenizer.pad_token.")
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.catalog = catalog
        self.config = config
        self._paths = identifier_tokens(tokenizer, catalog.term_ids)
        self.trie = Trie([self._paths[catalog.positions_of(tid)[0]] for tid in catalog.identifiers], tokenizer.eos_token_id, found)
        vocab = model.get_input_embeddings().weight.shape[0]
        if self.trie.vocab > vocab:
            raise ValueError(
                f"The tokenizer makes ids up to {self.trie.vocab - 1}, the model has {vocab} embeddings: they do not belong together."
            )
        self._walker = TrieWalker(self.trie, self.device)

    @property
    def device(self) -> torch.device:
        return self.model.get_input_embeddings().weight.device

    def to(self, device: torch.device | str) -> GRLMForRecommendation:
        """Moves the model and the trie."""
        self.model.to(device)
        self._walker = TrieWalker(self.trie, self.device)
        return self

    # --- on disk and on the Hub ----------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls, path_or_repo: str | Path, *, revision: str | None = None, token: str | None = None, **model_kwargs: Any
    ) -> GRLMForRecommendation:
        """Loads a checkpoint from a folder or the Hub. `model_kwargs` go to ``AutoModelForCausalLM.from_pretrained``.

        Raises:
            ValueError: the checkpoint lacks its catalog or its GRLM config, or a newer grlm-hf wrote them.
        """
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
        if values.keys() != known:
            raise ValueError(f"{folder / CONFIG_FILE} holds {sorted(values)}; expected {sorted(known)}.")
        catalog = Catalog.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        for name in ("is_local", "local_files_only"):  # how it was loaded is not to be saved with it
            tokenizer.init_kwargs.pop(name, None)
        model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, use_safetensors=True, **model_kwargs)
        return cls(model, tokenizer, catalog, GRLMConfig(**values))

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the checkpoint: model, tokenizer, catalog and config. It takes the place of `folder` as a whole, or not at all.

        Raises:
            ValueError: `folder` holds other files and no catalog.
        """
        check_replaceable(folder, CATALOG_FILE)
        with replacing(folder) as new:
            self.model.generation_config = GenerationConfig(  # greedy and unpenalised: nothing that would bend the scores
                eos_token_id=self.tokenizer.eos_token_id, pad_token_id=self.tokenizer.pad_token_id
            )
            self.model.save_pretrained(new)
            self.tokenizer.save_pretrained(new)
            self.catalog.save_pretrained(new)
            write_json(new / CONFIG_FILE, asdict(self.config))

    def push_to_hub(self, repo_id: str, *, private: bool = True, token: str | None = None) -> str:
        """Publishes the checkpoint with its catalog as a model repository in one commit; returns its URL."""
        import tempfile

        from grlm_hf.hub import push_folder

        with tempfile.TemporaryDirectory() as work:
            self.save_pretrained(Path(work) / "checkpoint")
            return push_folder(Path(work) / "checkpoint", repo_id, private=private, token=token)

    # --- recommending --------------------------------------------------------------------------------------------------------------

    def recommend(
        self,
        history: Any,
        k: int = 10,
        *,
        exclude_seen: bool = False,
        num_beams: int | None = None,
        batch_size: int = 32,
        progress: Callable[[int], None] | None = None,
    ) -> Any:
        """The `k` likeliest next items, best first; distinct and all in the catalog.

        Args:
            history: item ids, oldest first; or a list of histories. Only the last ``config.max_history`` items are read.
            exclude_seen: leave out all items of the history (also those too old to be read).
            num_beams: width of the search, by default the larger of 20 and `k`; a wider search is more exact and slower. With
                `exclude_seen` it is widened by the number of seen Term IDs.
            batch_size: histories searched at once.
            progress: called with the number of histories done since the last call.

        Returns:
            A list of `Recommendation`, or one such list a history. It is shorter than `k` only when `exclude_seen` leaves fewer items.

        Raises:
            ValueError: an empty history, an unknown item, `k` below 1 or above the catalog's size, `num_beams` below `k`.
        """
        if isinstance(history, str):
            raise ValueError(f"history is the string {history!r}; expected a list of item ids, such as [{history!r}].")
        history = list(history)
        single = not history or isinstance(history[0], str)
        if not single and any(isinstance(h, str) or not isinstance(h, Sequence) for h in history):
            raise ValueError(f"history is {history[:3]!r}; expected item ids, which are strings, or lists of them.")
        histories: list[list[str]] = [history] if single else [list(h) for h in history]
        if not 1 <= k <= len(self.catalog):
            raise ValueError(f"k={k}; expected 1 to {len(self.catalog)}, the size of the catalog.")
        if num_beams is not None and num_beams < min(k, len(self.trie)):
            raise ValueError(f"num_beams={num_beams} cannot give k={k} items; expected at least {min(k, len(self.trie))}.")
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}; expected at least 1.")
        positions = [[self.catalog.position(i) for i in h] for h in histories]
        shown = [p[-self.config.max_history :] for p in positions]
        prompts = history_tokens(self.tokenizer, self._paths, shown, self.catalog.term_ids)
        results: list[list[Recommendation]] = [[] for _ in histories]
        # Seen items can fill beams, so there must be as many more; in steps of eight, so that many users share a width.
        seen = [set(p) if exclude_seen else set() for p in positions]
        extra = [-(-len({self.catalog.term_ids[p] for p in s}) // 8) * 8 for s in seen]
        width = [min((num_beams or max(MIN_BEAMS, k)) + e, len(self.trie)) for e in extra]
        # Users of the same width and a like prompt length share a batch: an answer never depends on the others, and padding is little.
        order = sorted(range(len(histories)), key=lambda i: (width[i], len(prompts[i])))
        for batch in _batches(order, width, batch_size):
            leaves, scores = beam_search(self.model, self._walker, [prompts[i] for i in batch], width[batch[0]], self.config.objective)
            for i, leaf_row, score_row in zip(batch, leaves.tolist(), scores.tolist(), strict=True):
                ranked = (
                    (p, score)
                    for leaf, score in zip(leaf_row, score_row, strict=True)
                    if leaf >= 0
                    for p in self.catalog.positions_of(self.catalog.identifiers[leaf])
                    if p not in seen[i]
                )
                results[i] = [self._recommendation(p, score) for (p, score), _ in zip(ranked, range(k), strict=False)]
            if progress:
                progress(len(batch))
        return results[0] if single else results

    def _recommendation(self, position: int, score: float) -> Recommendation:
        item = self.catalog.items[position]
        return Recommendation(item.item_id, score, self.catalog.term_ids[position], item.title)

    def prompt_tokens(self, history: Sequence[str]) -> torch.Tensor:
        """The prompt of one history, int64 [1, length] on the model's device: for ``generate()`` and other engines."""
        positions = [self.catalog.position(i) for i in history][-self.config.max_history :]
        (prompt,) = history_tokens(self.tokenizer, self._paths, [positions], self.catalog.term_ids)
        return torch.from_numpy(prompt)[None].to(self.device)

    @torch.inference_mode()
    def write_freely(self, history: Sequence[str], num_beams: int = 20, max_new_tokens: int = 48) -> list[TermID | None]:
        """What the model writes without the trie: `num_beams` texts, best first, each parsed as a Term ID or ``None``.

        For measuring and for grounding (`grlm_hf.decoding.grounding`); a text may name no item.
        """
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


def _batches(order: list[int], width: list[int], size: int) -> Iterator[list[int]]:
    """Runs of at most `size` of `order` that have the same width."""
    for _, same in itertools.groupby(order, key=width.__getitem__):
        run = list(same)
        yield from (run[i : i + size] for i in range(0, len(run), size))
