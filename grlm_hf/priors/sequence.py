"""A decoder over atomic item ids, which learns from the order of items without their text.

It is of the SASRec family (Kang and McAuley 2018, arXiv 1808.09781) but trained like a language model: cross-entropy over the full catalog
at every position, where SASRec sampled one negative; the usually quoted figures lack that loss (Klenitskiy and Vasilev 2023, arXiv
2309.07602). The network is a small GPT-NeoX of transformers: rotary positions, GELU, dropout on embeddings and on both branches of a block;
the item embeddings are also the output layer. It is our own code because recommendation libraries such as RecBole bring their own data
formats and trainers, and cannot resume bit-exactly.

Its item embeddings also give neighbours for the collaborative task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from grlm_hf.indexing.neighbors import Neighbors, nearest
from grlm_hf.priors.scores import log_shares
from grlm_hf.settings import Count, Limit, NotNegative, Positive, Share, Size, check_settings
from grlm_hf.tensors import read_tensors, write_tensors

_ROWS = 512  # histories per batch


@dataclass(frozen=True)
class SequenceConfig:
    """Shape and training settings of the sequence decoder."""

    layers: Size = 2
    """Number of blocks of attention and feed-forward layers."""
    width: Count = 128
    """Dimension of item embeddings and hidden states."""
    heads: Size = 2
    """Attention heads, which divide `width` evenly."""
    max_items: Count = 20
    """Number of last items of a history that are used."""
    dropout: Share = 0.4
    """Dropout on embeddings, attention weights and the output of each branch, in training."""
    epochs: Count = 60
    """Number of epochs."""
    learning_rate: Positive = 1e-3
    """Highest learning rate of AdamW."""
    warmup: Share = 0.02
    """Share of all steps in which the learning rate rises; it then falls as a cosine."""
    weight_decay: NotNegative = 0.05
    """Weight decay of matrices; biases and norms have none."""
    batch_positions: Count = 1024
    """Targets per step. A step needs about 6 · batch_positions · items bytes for scores; lower it for a catalog of millions."""
    bf16: bool = True
    """Train in bfloat16 with float32 weights. Scores are always computed in float32."""
    patience: Limit = 0
    """Stop after this many epochs without a better validation recall@10, and keep the best; 0: train all epochs and keep the last."""
    save_steps: Count = 500
    """Steps between two saved states to resume from; one is also saved after each epoch."""

    def __post_init__(self) -> None:
        check_settings(self, "sequence_model.")
        if self.width % (2 * self.heads):
            raise ValueError(f"sequence_model.width is {self.width}; expected a multiple of 2 · heads = {2 * self.heads}.")


@dataclass(frozen=True, eq=False)
class SequenceModel:
    """A trained sequence decoder.

    Attributes:
        counts: int64 `[n_items]`, how often each item occurs in the training histories of two items or more.
        net: the network, a `GPTNeoXModel` with one token per item, in evaluation mode.
        log: one entry per epoch: `epoch` from 1, `loss` (mean negative log-likelihood of a target, nats, with dropout) and, with
            validation cases, `recall@10`.
    """

    kind: ClassVar[str] = "sequence"
    item_ids: tuple[str, ...]
    counts: np.ndarray
    net: Any
    config: SequenceConfig
    log: tuple[dict[str, float], ...] = ()

    @cached_property
    def rows(self) -> dict[str, int]:
        """item_id → its row."""
        return {item: row for row, item in enumerate(self.item_ids)}

    @property
    def known(self) -> np.ndarray:
        """bool `[n_items]`: the items with training events."""
        return self.counts > 0

    def scores(self, histories: Sequence[Sequence[str]]) -> np.ndarray:
        """float32 `[n, n_items]`: log p(next item | history); see `Scorer`. Items without training events are dropped from a history; if
        none remains, an item's score is the log of its share of the training events, plus one event per item."""
        import torch

        net = self.net
        known = [[r for i in h if (r := self.rows.get(i, -1)) >= 0 and self.counts[r]][-self.config.max_items :] for h in histories]
        found = np.empty((len(known), len(self.item_ids)), np.float32)
        order = sorted(range(len(known)), key=lambda n: len(known[n]))
        empty = sum(not k for k in known)
        found[order[:empty]] = log_shares(self.counts)
        with torch.inference_mode():
            for some in (order[start : start + _ROWS] for start in range(empty, len(order), _ROWS)):
                ids, _ = padded([known[n] for n in some])
                last = torch.tensor([len(known[n]) - 1 for n in some])
                hidden = net(ids.to(net.device)).last_hidden_state[torch.arange(len(some)), last]
                found[some] = (hidden @ net.get_input_embeddings().weight.T).log_softmax(1).cpu().numpy()
        return found

    @property
    def item_vectors(self) -> np.ndarray:
        """float32 `[n_items, width]`: item embeddings scaled to length 1; zero for items without training events."""
        weight = self.net.get_input_embeddings().weight.detach().cpu().double().numpy() * (self.counts > 0)[:, None]
        return (weight / np.maximum(np.linalg.norm(weight, axis=1, keepdims=True), 1e-30)).astype(np.float32)

    def neighbors(self, k: int = 5) -> Neighbors:
        """Each item's `k` nearest items by the cosine of their embeddings. Items without training events are left out on both sides."""
        indices, scores = nearest(self.item_vectors, k)
        facts = {"n_items": len(self.item_ids), "k": k, "embedder": "item embeddings of a sequence decoder", "dim": self.config.width}
        facts |= {"epochs": len(self.log), "never_seen": int((self.counts == 0).sum())}
        return Neighbors(item_ids=self.item_ids, indices=indices, scores=scores, facts=facts)

    def save(self, path: str | Path) -> None:
        """Writes one file in the safetensors format, atomically."""
        import torch

        facts = {"item_ids": list(self.item_ids), "config": asdict(self.config), "log": list(self.log)}
        write_tensors(path, self.kind, {"net": self.net.state_dict(), "items": {"counts": torch.from_numpy(self.counts)}}, facts)

    @classmethod
    def load(cls, path: str | Path) -> SequenceModel:
        """Reads what `save` wrote. Raises ``ValueError`` if the file is missing, broken or of another kind."""
        groups, facts = read_tensors(path, cls.kind)
        try:
            config = SequenceConfig(**facts["config"])
            net = make_network(len(facts["item_ids"]), config)
            net.load_state_dict(groups["net"])
            return cls(tuple(facts["item_ids"]), groups["items"]["counts"].numpy(), net.eval(), config, tuple(facts["log"]))
        except (KeyError, TypeError, RuntimeError) as error:
            raise ValueError(f"{path} is not a sequence model that this grlm-hf reads ({error}). Train it again.") from error


def padded(rows: Sequence[Sequence[int]]) -> tuple[Any, Any]:
    """int64 and bool `[rows, longest]`: the rows padded at the right, which a causal network ignores, and the mask of real entries."""
    import torch

    real = torch.arange(max(map(len, rows))) < torch.tensor([len(row) for row in rows])[:, None]
    ids = torch.zeros(real.shape, dtype=torch.int64)
    ids[real] = torch.tensor([n for row in rows for n in row])
    return ids, real


def make_network(n_items: int, config: SequenceConfig, seed: int = 0) -> Any:
    """The network with random weights, on the GPU if there is one. PyTorch's random state does not change."""
    import torch
    from transformers import GPTNeoXConfig, GPTNeoXModel

    shape = GPTNeoXConfig(
        vocab_size=n_items,
        hidden_size=config.width,
        intermediate_size=4 * config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        max_position_embeddings=config.max_items,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 1.0},
        use_parallel_residual=False,
        hidden_dropout=config.dropout,
        attention_dropout=config.dropout,
        use_cache=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net: Any = GPTNeoXModel(shape)
        return net.to("cuda" if torch.cuda.is_available() else "cpu")
