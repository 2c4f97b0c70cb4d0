"""Mult-VAE, a variational autoencoder of histories as sets of items (Liang et al. 2018, arXiv 1802.05814).

    z ~ N(μ(x), σ(x)²),   p(item | z) = softmax(f(z)),   loss = -Σ over x of log p(item | z) + β · KL(z ‖ N(0, 1))

x has 1/√n at the n distinct items of a history; dropout leaves some of them out in training. β rises from 0, and the epoch with the best
NDCG@10 on validation cases is kept, which also chooses β. The first layer adds rows of a table, so no dense x is ever in memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from grlm_hf.data.interactions import Case, History
from grlm_hf.precision import bound_caches
from grlm_hf.priors.scores import log_shares, training_rows
from grlm_hf.priors.tuning import Targets
from grlm_hf.progress import progress
from grlm_hf.tensors import read_tensors, write_tensors

_ROWS = 512  # histories per batch of scores


@dataclass(frozen=True)
class VAEConfig:
    """Shape and training settings."""

    hidden: int = 256  # width of the layers before and behind z
    latent: int = 128  # dimension of z
    dropout: float = 0.5  # share of a history's items left out in a step
    epochs: int = 60
    patience: int = 6  # stop after this many epochs without a better validation NDCG@10
    batch_users: int = 256
    learning_rate: float = 1e-3
    beta: float = 0.2  # highest weight of the KL term
    anneal: float = 0.5  # share of all steps in which β rises
    bf16: bool = True  # train in bfloat16 with float32 weights


@dataclass(frozen=True, eq=False)
class MultVAE:
    """Made by `learn`.

    Attributes:
        counts: int64 `[n_items]`, events of each item in the training histories.
        net: a `torch.nn.ModuleDict` in evaluation mode.
        log: one entry per epoch: `epoch` from 1, `loss` (nats a user), `beta` and, with validation cases, `ndcg@10`.
    """

    kind: ClassVar[str] = "vae"
    item_ids: tuple[str, ...]
    counts: np.ndarray
    net: Any
    config: VAEConfig
    log: tuple[dict[str, float], ...] = ()

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {item: row for row, item in enumerate(self.item_ids)}

    @property
    def known(self) -> np.ndarray:
        """bool `[n_items]`: the items with training events."""
        return self.counts > 0

    def scores(self, histories: Sequence[Sequence[str]]) -> np.ndarray:
        """float32 `[n, n_items]`: log p(item | z = μ(history)); see `Scorer`. Items without training events are dropped from a history; if
        none remains, an item's score is the log of its share of the training events, plus one event per item."""
        import torch

        sets = [np.unique([r for i in h if (r := self._rows.get(i, -1)) >= 0 and self.counts[r]]).astype(np.int64) for h in histories]
        found = np.empty((len(sets), len(self.item_ids)), np.float32)
        found[[not len(s) for s in sets]] = log_shares(self.counts)
        full = np.array([n for n, s in enumerate(sets) if len(s)], np.int64)
        with torch.inference_mode():
            for some in (full[start : start + _ROWS] for start in range(0, len(full), _ROWS)):
                mean, _ = _encoded(self.net, [sets[n] for n in some])
                found[some] = _decoded(self.net, mean).log_softmax(1).cpu().numpy()
        return found

    @classmethod
    def learn(
        cls,
        item_ids: Iterable[str],
        histories: Sequence[History],
        config: VAEConfig | None = None,
        *,
        validation: Sequence[Case] = (),
        seed: int = 0,
        exclude_seen: bool = True,
    ) -> MultVAE:
        """Trains one. On one machine with one number of threads the result is bit-exact; PyTorch's random state does not change.

        Args:
            validation: cases whose NDCG@10 chooses the epoch; without them the last one is kept.
            exclude_seen: that NDCG@10 is of rankings without the items of the history.

        Raises `ValueError` for no history with an item, a loss that is not finite, and as `training_rows`.
        """
        import torch

        ids, config = tuple(item_ids), config or VAEConfig()
        rows = training_rows(ids, histories)
        counts = np.bincount(np.array([r for row in rows for r in row], np.int64), minlength=len(ids))
        sets = [np.unique(row).astype(np.int64) for row in rows if row]
        if not sets:
            raise ValueError(f"None of the {len(histories)} histories has an item; there is nothing to learn from.")
        targets = Targets(ids, validation, exclude_seen) if validation else None
        per_epoch = math.ceil(len(sets) / config.batch_users)
        total, rng = config.epochs * per_epoch, np.random.default_rng(seed)
        log: list[dict[str, float]] = []
        best, kept = -1.0, {}
        bar = progress(total=total, desc="variational autoencoder", unit="step", disable=total < 200)
        with bar, torch.random.fork_rng():
            torch.manual_seed(seed)
            net = _network(len(ids), config)
            if config.bf16 and net["read"].weight.device.type == "cpu":
                bound_caches()
            optimizer = torch.optim.Adam(net.parameters(), config.learning_rate, fused=True)
            for epoch in range(config.epochs):
                running, beta = 0.0, 0.0
                for n, some in enumerate(np.array_split(rng.permutation(len(sets)), per_epoch)):
                    beta = config.beta * min(1.0, (epoch * per_epoch + n) / max(1.0, config.anneal * total))
                    loss = _step(net, optimizer, [sets[u] for u in some], beta, config)
                    if not math.isfinite(loss):
                        raise ValueError(f"The loss of the variational autoencoder is {loss} in epoch {epoch + 1}. Leave vae out.")
                    running += loss * len(some)
                    bar.update()
                log.append({"epoch": epoch + 1, "loss": running / len(sets), "beta": beta})
                if targets is not None:
                    log[-1]["ndcg@10"] = targets.measure(cls(ids, counts, net.eval(), config))
                    if log[-1]["ndcg@10"] > best:
                        best, kept = log[-1]["ndcg@10"], {name: tensor.clone() for name, tensor in net.state_dict().items()}
                    elif epoch + 1 - max(log, key=lambda e: e["ndcg@10"])["epoch"] >= config.patience:
                        break
                bar.set_postfix({name: f"{value:.4g}" for name, value in log[-1].items()})
        if kept:
            net.load_state_dict(kept)
        return cls(ids, counts, net.eval(), config, tuple(log))

    def save(self, path: str | Path) -> None:
        """Writes one file in the safetensors format, atomically."""
        facts = {"item_ids": list(self.item_ids), "config": asdict(self.config), "log": list(self.log)}
        write_tensors(path, self.kind, {"net": self.net.state_dict(), "items": {"counts": self.counts}}, facts)

    @classmethod
    def load(cls, path: str | Path) -> MultVAE:
        """Reads what `save` wrote. Raises ``ValueError`` if the file is missing, broken or of another kind."""
        groups, facts = read_tensors(path, cls.kind)
        try:
            config = VAEConfig(**facts["config"])
            net = _network(len(facts["item_ids"]), config)
            net.load_state_dict(groups["net"])
            return cls(tuple(facts["item_ids"]), groups["items"]["counts"].numpy(), net.eval(), config, tuple(facts["log"]))
        except (KeyError, TypeError, RuntimeError) as error:
            raise ValueError(f"{path} is not a variational autoencoder that this grlm-hf reads ({error}). Train it again.") from error


def _network(n_items: int, config: VAEConfig) -> Any:
    """On the GPU if there is one."""
    import torch
    from torch import nn

    net = nn.ModuleDict({
        "read": nn.EmbeddingBag(n_items, config.hidden, mode="sum"),
        "encode": nn.Linear(config.hidden, 2 * config.latent),
        "decode": nn.Linear(config.latent, config.hidden),
        "write": nn.Linear(config.hidden, n_items),
    })  # fmt: skip
    nn.init.xavier_normal_(net["read"].weight)  # type: ignore[arg-type]
    return net.to("cuda" if torch.cuda.is_available() else "cpu")


def _encoded(net: Any, sets: Sequence[np.ndarray], dropout: float = 0.0) -> tuple[Any, Any]:
    """Mean and log-variance of z, float `[n, latent]` each, of sets of rows."""
    import torch

    device, sizes = net["read"].weight.device, np.array([len(s) for s in sets])
    weights = torch.from_numpy(np.repeat(1 / np.sqrt(np.maximum(sizes, 1)), sizes).astype(np.float32)).to(device)
    items = torch.from_numpy(np.concatenate(sets)).to(device)
    offsets = torch.from_numpy(np.cumsum(sizes) - sizes).to(device)
    hidden = net["read"](items, offsets, per_sample_weights=torch.nn.functional.dropout(weights, dropout, training=dropout > 0)).tanh()
    return net["encode"](hidden).chunk(2, dim=1)  # type: ignore[no-any-return]


def _decoded(net: Any, z: Any) -> Any:
    """Logits, float `[n, n_items]`."""
    return net["write"](net["decode"](z).tanh())


def _step(net: Any, optimizer: Any, sets: Sequence[np.ndarray], beta: float, config: VAEConfig) -> float:
    """One training step. Returns the mean loss of a user, nats."""
    import torch

    net.train()
    device = net["read"].weight.device
    mean, log_variance = _encoded(net, sets, config.dropout)
    z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
    with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
        logits = _decoded(net, z)
    user = torch.from_numpy(np.repeat(np.arange(len(sets)), [len(s) for s in sets])).to(device)
    found = logits[user, torch.from_numpy(np.concatenate(sets)).to(device)].float().sum() / len(sets)
    sizes = torch.tensor([float(len(s)) for s in sets], device=device)
    mass = (logits.float().logsumexp(1) * sizes).mean()
    kl = 0.5 * (log_variance.exp() + mean**2 - 1 - log_variance).sum(1).mean()
    loss = mass - found + beta * kl
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.item())
