"""Why an item is recommended: what each of its terms adds to its log-probability, and what it loses with each item of the history. Both are
read off the model's own probabilities. The chain rule makes the terms' parts exact; leaving out one item at a time is occlusion (Zeiler and
Fergus, 2014). ``benchmarks/quality/deletion.py`` measures whether the history's part points at what matters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from grlm_hf.engines.protocol import MAX_LOGITS, check_scores
from grlm_hf.identifiers.scheme import Identifier
from grlm_hf.modeling.naming import prefix_name
from grlm_hf.tokens import part_of_tokens

if TYPE_CHECKING:
    from grlm_hf.decoding.index import SearchIndex
    from grlm_hf.modeling.prompter import Prompter


@dataclass(frozen=True, slots=True)
class TermScore:
    """A term and its natural-log probability after the history and the terms before it. `name`: of a part that people cannot read, what
    the items are that begin with it and the parts before it (`grlm_hf.modeling.naming`); else empty."""

    term: str
    log_prob: float
    name: str = ""


@dataclass(frozen=True, slots=True)
class HistoryScore:
    """An item of the history, and by how much the log-probability falls without it; negative where it rises. `drop` is 0 for an item too
    old to be read, and ``None`` for an only item: there is no prompt without a history."""

    item_id: str
    drop: float | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """An item after a history.

    Attributes:
        log_prob: natural-log probability of its Term ID as in `Recommendation.log_prob`, under the checkpoint's objective; priors, shares
            and length penalties of a recommendation are no part of it.
        terms: in the order of the Term ID; their log-probabilities sum to `log_prob`. A word's part holds the mark behind it, which says
            that the word ends there.
        history: all items given, oldest first.
    """

    item_id: str
    term_id: Identifier
    log_prob: float
    terms: tuple[TermScore, ...]
    history: tuple[HistoryScore, ...]


def explain(prompter: Prompter, index: SearchIndex, history: Sequence[str], item_id: str) -> Explanation:
    """The parts of ``log p(item | history)``; one forward for all of them, unless the vocabulary is so large that it takes gigabytes.

    Args:
        history: item ids, oldest first. Leaving one out can make room for an older one, as it would in a recommendation.
        item_id: any item of the catalog, recommended or not.

    Raises `ValueError` for an empty history, an unknown item.
    """
    if isinstance(history, str):
        raise ValueError(f"history is the string {history!r}; expected a list of item ids, such as [{history!r}].")
    target = index.catalog.position(item_id)
    shown = [index.catalog.position(i) for i in history]
    without = [shown[:i] + shown[i + 1 :] for i in range(len(shown))] if len(shown) > 1 else []
    found = _token_log_probs(prompter, index, [shown, *without], [target] * (1 + len(without)))
    total = [float(f.sum()) for f in found]
    term_id = index.catalog.item_identifiers[target]
    parts = np.zeros(len(term_id))
    np.add.at(parts, part_of_tokens(prompter.tokenizer, index.catalog.scheme, term_id), found[0])
    readable = index.catalog.scheme.readable or len(term_id) == 1
    names = ["" if readable else prefix_name(index.catalog, term_id[: n + 1]) for n in range(len(term_id))]
    drops: list[float | None] = [total[0] - t for t in total[1:]]
    return Explanation(
        item_id,
        term_id,
        total[0],
        tuple(TermScore(t, float(p), name) for t, p, name in zip(term_id, parts, names, strict=True)),
        tuple(HistoryScore(i, d) for i, d in zip(history, drops or [None], strict=True)),
    )


def log_probs(prompter: Prompter, index: SearchIndex, histories: Sequence[Sequence[str]], item_ids: Sequence[str]) -> np.ndarray:
    """Natural-log probability of one item after each history, float64 [n], as `Recommendation.log_prob`. Raises ``ValueError`` for an empty
    history or an unknown item."""
    shown = [[index.catalog.position(i) for i in h] for h in histories]
    found = _token_log_probs(prompter, index, shown, [index.catalog.position(i) for i in item_ids])
    return np.array([f.sum() for f in found])


def _token_log_probs(prompter: Prompter, index: SearchIndex, shown: Sequence[Sequence[int]], targets: Sequence[int]) -> list[np.ndarray]:
    """Log-probability of each token of each target's path, float64 [tokens], after each history; both as positions of the catalog."""
    prompts = prompter.prompts(index, shown)
    paths = [index.path(t) for t in targets]
    rows = [(prompt.tobytes(), target) for prompt, target in zip(prompts, targets, strict=True)]
    first = {row: i for i, row in reversed(list(enumerate(rows)))}  # each pair is computed once
    todo = sorted(first.values(), key=lambda i: len(prompts[i]) + len(paths[i]))
    width = max(map(len, paths), default=1) * prompter.engine.vocabulary
    step = max(1, min(64, MAX_LOGITS // width))
    found: dict[tuple[bytes, int], np.ndarray] = {}
    for start in range(0, len(todo), step):
        some = todo[start : start + step]
        scores = _forward(prompter, index, [prompts[i] for i in some], [paths[i] for i in some])
        found |= zip((rows[i] for i in some), scores, strict=True)
    return [found[row] for row in rows]


def _forward(prompter: Prompter, index: SearchIndex, prompts: Sequence[np.ndarray], paths: Sequence[np.ndarray]) -> list[np.ndarray]:
    import torch

    texts = [np.concatenate((prompt, path[:-1])) for prompt, path in zip(prompts, paths, strict=True)]
    longest, keep = max(map(len, texts)), max(map(len, paths))
    ids = np.full((len(texts), longest), prompter.tokenizer.pad_token_id, np.int64)
    mask = np.zeros((len(texts), longest), np.int64)
    for i, text in enumerate(texts):  # padded on the left, so that all answers are at the end
        ids[i, longest - len(text) :], mask[i, longest - len(text) :] = text, 1
    model = prompter.engine.language_model("explain()")
    with torch.inference_mode():
        inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clip(0)}
        tensors = {name: torch.from_numpy(array).to(prompter.engine.device) for name, array in inputs.items()}
        logits = model(**tensors, use_cache=False, logits_to_keep=keep).logits
        found = []
        for row, path in zip(logits, paths, strict=True):
            scores = row[keep - len(path) :].float()
            if prompter.config.objective == "trie":
                scores = scores + _legal(index, path, scores)
            token = torch.from_numpy(path.astype(np.int64)).to(prompter.engine.device)[:, None]
            found.append(scores.log_softmax(-1).gather(1, token)[:, 0].double().cpu().numpy())
            check_scores(found[-1], prompter.engine.name)
    return found


def _legal(index: SearchIndex, path: np.ndarray, like: Any) -> Any:
    """0 for the legal children of the nodes along a path, -inf elsewhere; as `like` [tokens, vocabulary]."""
    import torch

    node = index.walker.root(1)
    mask = torch.full_like(like, -torch.inf)
    for i, token in enumerate(path):
        _, children, _, _ = index.walker.children(*node)
        mask[i, torch.from_numpy(children).to(like.device)] = 0.0
        node = index.walker.step(*node, np.array([token]))
    return mask
