"""The trie-normalised objective: cross-entropy over the legal children of the current trie node.

The model never spends probability, or compute, on tokens that decoding would forbid. Forced tokens have probability 1 and cost
nothing; nor does the end of an identifier. Scores of a model trained so are normalised in the same way
(``GRLMConfig.objective == "trie"``).
"""

from __future__ import annotations

import torch

from grlm_hf.decoding.walker import DEAD, TrieWalker, segment_log_softmax

IGNORED = -100


def label_states(labels: torch.Tensor, walker: TrieWalker, eos_token_id: int) -> torch.Tensor:
    """The trie state before each label, `DEAD` where there is none (not a label, or EOS). Int64 [batch, length], as `labels`.

    Raises:
        ValueError: a label that continues no identifier.
    """
    state = labels.new_zeros(len(labels))
    columns = []
    for label in labels.unbind(1):
        counts = (label != IGNORED) & (label != eos_token_id)
        columns.append(torch.where(counts, state, DEAD))
        after = walker.step(state, label)
        state = torch.where(counts, torch.where(walker.leaf[after.clamp(min=0)] >= 0, 0, after), state)
        # a dead state stays dead, so one look at the end finds any illegal label
    if (state == DEAD).any():
        raise ValueError("A completion holds tokens that are no identifier of the catalog.")
    return torch.stack(columns, 1)


def trie_nll(hidden: torch.Tensor, embedding: torch.Tensor, state: torch.Tensor, label: torch.Tensor, walker: TrieWalker) -> torch.Tensor:
    """Negative natural-log probability of each label among the children of its state; 0 for the only child.

    Args:
        hidden: float [n, hidden], the model's last hidden states where the labels are predicted.
        embedding: float [vocab, hidden], the output embeddings.
        state: int64 [n], the trie state before each label.
        label: int64 [n], a child of that state.

    Returns:
        float32 [n].
    """
    nll = torch.zeros(len(label), device=hidden.device)
    at_root = state == 0
    # The root has by far the most children and every item starts there: one dense product.
    children = walker.token[: walker.first[1]]
    logits = (hidden[at_root] @ embedding[children].T).float()
    index = torch.searchsorted(children, label[at_root])
    nll = nll.index_put((at_root.nonzero()[:, 0],), torch.nn.functional.cross_entropy(logits, index, reduction="none"))
    # Elsewhere children are few: score just those.
    choice = (~at_root & (walker.first[state + 1] - walker.first[state] > 1)).nonzero()[:, 0]
    row, edge = walker.edges(state[choice])
    scores = torch.einsum("nh,nh->n", hidden[choice][row], embedding[walker.token[edge]]).float()
    log_p = segment_log_softmax(scores, row, len(choice))
    return nll.index_put((choice,), -log_p[walker.token[edge] == label[choice][row]])
