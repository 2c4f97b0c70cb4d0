"""Any chat model as a recommender without training: titles in, and a trie over the catalog's titles holds its answer, so each answer is an
item. Worked examples of other users may precede the question (in-context learning, as of Chat-REC, Gao et al., 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.interactions import History
from grlm_hf.decoding.index import SearchIndex
from grlm_hf.evaluation.config import EvaluateConfig, ZeroShotConfig
from grlm_hf.evaluation.generative import constrained
from grlm_hf.evaluation.rankings import Method
from grlm_hf.identifiers.titles import TITLES
from grlm_hf.loading import load_causal_lm, load_tokenizer
from grlm_hf.modeling.config import GRLMConfig
from grlm_hf.modeling.prompter import Prompter
from grlm_hf.modeling.recommender import GRLMForRecommendation
from grlm_hf.tasks.encoding import prompt_tokens
from grlm_hf.tasks.prompts import title_line, written_title, zero_shot_turns

_SHOWN = 10  # items of the history
_OF_EXAMPLE = 6  # items of a worked example, the answer among them
_AT_ONCE = 8  # users; prompts are long


def zero_shot(grlm: GRLMForRecommendation, config: EvaluateConfig) -> dict[str, Method]:
    """`chat_model` as the method "zero-shot"."""
    return {"zero-shot": constrained(grlm, config.exclude_seen, config.num_beams or None, _AT_ONCE, depth=config.whole_depth)}


def chat_tokenizer(model: str) -> Any:
    """The tokenizer of a chat model, a folder or Hub id. Raises `ValueError` if it cannot be loaded or has no chat template."""
    tokenizer = load_tokenizer(model)
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            f"evaluate.zero_shot.model is {model!r}, which has no chat template, so no question can be put to it. Name its "
            "instruction-tuned version; or set tokenizer.chat_template, save the tokenizer beside the model, and name that folder."
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def chat_model(config: ZeroShotConfig, catalog: Catalog, histories: Sequence[History], seed: int = 0) -> GRLMForRecommendation:
    """The chat model of `config` over the titles of a catalog. Items with the same title share an identifier: they are ranked as items with
    the same Term ID are.

    Args:
        histories: training events; `config.shots` users of them, drawn with `seed`, become worked examples.

    Scores are normalised over the trie's children: the model was never taught to end a title where the catalog does.

    Raises `ValueError` for a model that cannot be loaded or has no chat template, or for fewer training users than examples.
    """
    tokenizer = chat_tokenizer(config.model)
    titles = Catalog(catalog.items, [(written_title(item),) for item in catalog], TITLES)
    long = [h.items[-_OF_EXAMPLE:] for h in histories if len(h.items) > 1]
    if len(long) <= config.shots and config.shots:
        raise ValueError(f"evaluate.zero_shot.shots is {config.shots}; only {len(long)} training users have two items or more, one spared.")
    drawn = np.random.default_rng(seed).permutation(len(long))[: config.shots + 1] if config.shots else ()
    grlm = GRLMForRecommendation(
        load_causal_lm(config.model), tokenizer, titles, GRLMConfig(_SHOWN, objective="trie", history="titles", scheme=TITLES.name)
    )
    grlm.prompter = FewShotPrompter(tokenizer, grlm.config, grlm.engine, [long[i] for i in drawn])
    return grlm


class FewShotPrompter(Prompter):
    """Prompts of a model that never learnt the task.

    Args:
        examples: items of training users, the answer last; one more than is shown, since a user's own events are no example for them.
    """

    def __init__(self, tokenizer: Any, config: GRLMConfig, engine: Any, examples: Sequence[Sequence[str]]):
        super().__init__(tokenizer, config, engine)
        self.examples = examples

    def prompts(self, index: SearchIndex, positions: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """The prompt of each history, as `Prompter.prompts`. Where there is too little room, first the oldest items are left out, then
        worked examples."""
        return [self._prompt(index, list(p)) for p in positions]

    def _prompt(self, index: SearchIndex, history: Sequence[int]) -> np.ndarray:
        items, limit = index.catalog.items, self.engine.max_length
        known = [[index.catalog.position(i) for i in example if i in index.catalog] for example in self.examples]
        others = [e for e in known if len(e) > 1 and not set(e) <= set(history)][: max(len(self.examples) - 1, 0)]
        shown = history[-self.config.max_history :]
        while True:
            examples = [turn for e in others for turn in zero_shot_turns([title_line(items[p]) for p in e[:-1]], title_line(items[e[-1]]))]
            (ids,) = prompt_tokens(self.tokenizer, [[*examples, *zero_shot_turns([title_line(items[p]) for p in shown])]])
            if not limit or len(ids) + index.trie.depth + 1 <= limit:
                return np.array(ids, np.int64)
            if len(shown) > 1:
                shown = shown[1:]
            elif others:
                others = others[1:]
            else:
                raise ValueError(
                    f"A question with one title has {len(ids)} tokens, its answer up to {index.trie.depth + 1}; the model takes {limit} in "
                    "all. Name a model that takes longer texts."
                )
