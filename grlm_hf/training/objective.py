"""The trie-normalised objective: cross-entropy over the legal children of the current trie node.

The model spends no probability, and no compute, on tokens that decoding would forbid. Forced tokens have probability 1 and cost
nothing; neither does the end-of-sequence token behind an identifier. Scores of a model trained so are normalised in the same way
(``GRLMConfig.objective == "trie"``). Labels of free text have no node; their loss is the cross-entropy over the vocabulary
(`grlm_hf.training.head`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from grlm_hf.trie.walker import Node, TrieWalker, segment_log_softmax

if TYPE_CHECKING:
    from grlm_hf.training.distill import SoftLabels

IGNORED = -100


def free_text_labels(labels: torch.Tensor, walker: TrieWalker, eos_token_id: int) -> torch.Tensor:
    """Finds the free text in completions of which only the tokens are known: all labels before the longest run of whole identifiers at
    the end of a row.

    Args:
        labels: int64 [batch, length], such as a thought and then an identifier; `IGNORED` where there is no label.
        walker: the trie, as NumPy arrays.

    Returns:
        bool [batch, length]; all ``False`` in a row that does not end in an identifier, which `label_nodes` then refuses.
    """
    found = labels.cpu().numpy()
    row, column = np.nonzero((found != IGNORED) & (found != eos_token_id))
    token, last = found[row, column], np.searchsorted(row, row, side="right")
    # 1. from every label on: where the identifier that begins there ends; 0 if none does
    end = np.zeros(len(row), np.int64)
    begin = at = np.arange(len(row))
    node = walker.root(len(row))
    while len(at):
        node = walker.step(*node, token[at])
        alive, whole = node[1] > node[0], walker.ends(*node)
        end[begin[alive & whole]] = at[alive & whole] + 1
        goes_on = alive & ~whole & (at + 1 < last[begin])
        begin, at, node = begin[goes_on], at[goes_on] + 1, tuple(x[goes_on] for x in node)  # type: ignore[assignment]
    # 2. from the ends backwards: the runs that reach the end of their row
    first: dict[int, int] = {}
    reaches = set(np.unique(last).tolist())
    for start in np.flatnonzero(end)[::-1].tolist():
        if int(end[start]) in reaches:
            reaches.add(start)
            first[int(row[start])] = start
    text = np.zeros(found.shape, bool)
    before = np.arange(len(row)) < np.array([first.get(r, -1) for r in range(len(found))], np.int64)[row]
    text[row[before], column[before]] = True
    return torch.from_numpy(text).to(labels.device)


def label_nodes(labels: torch.Tensor, walker: TrieWalker, eos_token_id: int, free_text: torch.Tensor | None = None) -> Node:
    """The trie node before each label, empty (``lo == hi``) without one: no label, free text, or the end-of-sequence token. Three
    int64 [batch, length].

    Args:
        labels: int64 [batch, length].
        walker: on the device of `labels`; on a CPU a walker of NumPy arrays is much faster.
        free_text: bool [batch, length]; labels that belong to no identifier.

    Raises:
        ValueError: a label that continues no identifier.
    """
    found = labels if walker.device is not None else labels.numpy()
    counts = (found != IGNORED) & (found != eos_token_id)
    if free_text is not None:
        counts &= ~(free_text if walker.device is not None else free_text.numpy())
    node = root = walker.root(len(labels))
    columns, off = [], counts[:, 0] & False
    for label, counted in zip(found.T, counts.T, strict=True):
        columns.append((node[0], walker.where(counted, node[1], node[0]), node[2]))
        after = walker.step(*node, label)
        off |= counted & (after[0] == after[1])
        ends = walker.ends(*after)
        node = tuple(walker.where(counted, walker.where(ends, r, a), n) for r, a, n in zip(root, after, node, strict=True))  # type: ignore[assignment]
    if off.any():
        raise ValueError("A completion has tokens that are no identifier of the catalog.")
    lo, hi, depth = (torch.stack([torch.as_tensor(x) for x in column], 1) for column in zip(*columns, strict=True))
    return lo, hi, depth


def trie_nll(hidden: torch.Tensor, embedding: torch.Tensor, node: Node, label: torch.Tensor, walker: TrieWalker) -> torch.Tensor:
    """Negative natural-log probability of each label among the children of its node; 0 for the only child.

    Args:
        hidden: float [n, hidden], the model's last hidden states where the labels are predicted.
        embedding: float [vocab, hidden], the output embeddings.
        node: three int64 [n], the trie node before each label.
        label: int64 [n], a child of that node.

    Returns:
        float32 [n].
    """
    return trie_losses(hidden, embedding, node, label, walker)[0]


def trie_losses(
    hidden: torch.Tensor,
    embedding: torch.Tensor,
    node: Node,
    label: torch.Tensor,
    walker: TrieWalker,
    answers: SoftLabels | None = None,
    question: torch.Tensor | None = None,
    readout: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`trie_nll`, and the cross-entropy to a teacher: ``-Σ q(child) log p(child)`` over the children of each node (Hinton et al. 2015,
    arXiv 1503.02531, node by node). Here q(child) is the teacher's probability of the identifiers below the child, divided by that of the
    identifiers below the node.

    Args:
        hidden, embedding, node, label, walker: as in `trie_nll`.
        answers: the teacher's, to the questions of this batch.
        question: int64 [n]; the question of each label; negative: none, and the second loss means nothing.
        readout: changes the hidden states that the second loss reads, float [n, hidden] → the same; ``None``: they stay as they are.

    Returns:
        Two float32 [n]; the second is all 0 without a teacher.
    """
    nll = torch.zeros(len(label), device=hidden.device)
    soft = torch.zeros_like(nll)
    read = hidden if readout is None or answers is None else readout(hidden)
    at_root = node[2] == 0
    # The root has by far the most children and every item starts there: one dense product.
    _, children, lo, hi = walker.children_of_root
    log_p = (hidden[at_root] @ embedding[children].T).float().log_softmax(1)
    index = torch.searchsorted(children, label[at_root])
    root = at_root.nonzero()[:, 0]
    nll = nll.index_put((root,), -log_p.gather(1, index[:, None])[:, 0])
    if answers is not None and question is not None:
        if readout is not None:
            log_p = (read[at_root] @ embedding[children].T).float().log_softmax(1)
        mass = answers.mass(question[root].clamp_min(0)[:, None], lo, hi)
        soft = soft.index_put((root,), -(mass * log_p).sum(1) / mass.sum(1))
    # Elsewhere children are few: score just those.
    first, last = walker.borders(*node)
    choice = (~at_root & (last > first)).nonzero()[:, 0]
    row, token, lo, hi = walker.children(*(x[choice] for x in node))
    scores = (hidden[choice][row] * embedding[token]).sum(1).float()  # as a product and a sum: einsum takes several times as long
    log_p = segment_log_softmax(scores, row, len(choice))
    nll = nll.index_put((choice,), -log_p[token == label[choice][row]])
    if answers is not None and question is not None:
        if readout is not None:
            log_p = segment_log_softmax((read[choice][row] * embedding[token]).sum(1).float(), row, len(choice))
        mass = answers.mass(question[choice][row].clamp_min(0), lo, hi)
        shares = mass / mass.new_zeros(len(choice)).index_add(0, row, mass)[row]
        soft = soft.index_put((choice,), torch.zeros_like(nll[choice]).index_add(0, row, -shares * log_p))
    return nll, soft
