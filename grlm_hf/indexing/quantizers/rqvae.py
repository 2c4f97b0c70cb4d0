"""RQ-VAE, a residual-quantised autoencoder of items' vectors (TIGER, Rajput et al., 2023, arXiv 2305.05065).

    z = encoder(x),   r_1 = z,   code_l = nearest row of table_l to r_l,   r_{l+1} = r_l − e_l,   e_l = table_l[code_l]
    loss = ‖x − decoder(Σ e_l)‖² + Σ_l (‖sg[r_l] − e_l‖² + β ‖r_l − sg[e_l]‖²) + α · InfoNCE(W Σ e_l, behaviour)

sg[·] has no gradient; squared norms are sums over dimensions, and means over items. Vectors are centred and scaled to a mean squared norm
of 1 first, so that a reconstruction error of 1 is that of the mean; the finished layers contain centre and scale. Unlike TIGER, tables
start as k-means of all items' latents, and unused codes restart.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from grlm_hf.identifiers.codebook import Codebook, Layers
from grlm_hf.indexing.quantizers.config import QuantizerConfig, RQVAEConfig
from grlm_hf.indexing.quantizers.kmeans import fit_residual
from grlm_hf.progress import progress
from grlm_hf.tensors import read_state, write_state

_KIND = "rqvae"
_STATE = "rqvae.state"  # safetensors inside
_SAVE_EPOCHS = 10
_SINKHORN_ROUNDS, _SINKHORN_EPSILON = 50, 0.003  # those of LC-Rec


def fit_rqvae(
    vectors: np.ndarray, config: QuantizerConfig, *, work: str | Path | None = None, behaviour: np.ndarray | None = None
) -> Codebook:
    """Trains an RQ-VAE on vectors float32 [n, d].

    On one machine with one number of threads the result is bit-exact, also after an interruption. Its facts have the entry "rqvae": epochs,
    reconstruction error (the mean squared error by that of the mean vector) and the share of codes used at each level.

    Args:
        work: a folder that keeps the state, so that an interrupted training resumes.
        behaviour: float32 [n, b], for `config.rqvae.alpha`; items with a zero row have no part in its loss.

    Raises:
        ValueError: vectors that are not finite, alpha without behaviour or with that of other items, a state in `work` of another training,
            a loss that is not finite.
    """
    import torch

    settings = config.rqvae
    x, mean, scale = _standardised(vectors)
    contrasted = _checked(behaviour, len(x)) if settings.alpha else None
    about = {"sizes": list(config.sizes), "seed": config.seed, **asdict(settings), "data": _digest(x, contrasted)}
    state = Path(work) / _STATE if work is not None else None
    per_epoch = math.ceil(len(x) / settings.batch_size)
    device = "cuda" if torch.cuda.is_available() else "cpu"

    # 1. the network, from the beginning or from the state that an interrupted run left
    with torch.random.fork_rng():  # keeps the caller's random state
        torch.manual_seed(config.seed)
        net = _network(x.shape[1], config, 0 if contrasted is None else contrasted.shape[1]).to(device)
    items = torch.from_numpy(x).to(device)
    near = None if contrasted is None else torch.from_numpy(contrasted).to(device)
    optimizer = _optimizer(net, settings)
    idle = [torch.zeros(size, dtype=torch.int64, device=device) for size in config.sizes]  # epochs since a code had an item
    kept = read_state(state, _KIND, about, net, optimizer)
    epoch = kept[1]["epoch"] if kept else 0
    for level, table in enumerate(idle):
        if kept:
            table.copy_(kept[0]["idle"][str(level)])
    if not epoch:
        with torch.no_grad():
            for table, start in zip(net["tables"], fit_residual(net["encoder"](items).cpu().numpy(), config).tables, strict=True):
                table.copy_(torch.from_numpy(start))

    # 2. the epochs; the randomness of an epoch depends only on the seed and its number
    bar = progress(total=settings.epochs, initial=epoch, desc="RQ-VAE", unit="epoch", disable=settings.epochs * per_epoch < 200)
    with bar:
        while epoch < settings.epochs:
            rng, running = np.random.default_rng([config.seed, epoch]), 0.0
            used = [torch.zeros_like(table, dtype=torch.bool) for table in idle]
            for some in map(torch.from_numpy, np.array_split(rng.permutation(len(x)), per_epoch)):
                loss, codes, rests = _loss(net, items[some], None if near is None else near[some], settings)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                running += loss.item() * len(some)
                for seen, found in zip(used, codes, strict=True):
                    seen[found] = True
            epoch += 1
            if not math.isfinite(running):
                raise ValueError(f"The loss of the RQ-VAE is {running} in epoch {epoch}. Lower identifier.codes.rqvae.learning_rate.")
            if settings.restart and epoch < settings.epochs:
                _restart(net["tables"], optimizer, idle, used, rests, settings.restart, rng)
            if state and epoch < settings.epochs and epoch % _SAVE_EPOCHS == 0:
                more = {"idle": {str(level): table for level, table in enumerate(idle)}}
                write_state(state, _KIND, {"about": about, "epoch": epoch}, net, optimizer, more)
            bar.update()
            bar.set_postfix({"loss": f"{running / len(x):.4g}"})

    # 3. tables and layers, which take vectors as they are
    tables = tuple(table.detach().cpu().numpy().copy() for table in net["tables"])
    (first, bias), *encoder = _layers(net["encoder"])
    *decoder, (last, end) = _layers(net["decoder"])
    encoder = [(first / scale, bias - first @ mean / scale), *encoder]
    found = Codebook("residual", config.sizes, tables, tuple(encoder), (*decoder, (last * scale, end * scale + mean)))
    chosen = found.codes(vectors)
    error = float(np.square(found.vectors(chosen) - vectors).sum(1).mean()) / float(scale) ** 2
    shares = [len(np.unique(column)) / size for column, size in zip(chosen.T, config.sizes, strict=True)]
    return replace(found, facts={"rqvae": {"epochs": epoch, "reconstruction_error": error, "codes_used": shares}})


def _standardised(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.float32]:
    """Vectors with mean 0 and a mean squared norm of 1, float32 [n, d]; the mean that was subtracted; the number that divided."""
    if not np.isfinite(vectors).all():
        raise ValueError("The vectors have NaN or infinity; expected finite numbers. Make the vectors again.")
    mean = vectors.mean(0, dtype=np.float64).astype(np.float32)
    centred = vectors.astype(np.float32) - mean
    scale = np.float32(np.sqrt(np.square(centred).sum(1, dtype=np.float64).mean()) or 1.0)  # equal vectors have no scale
    return centred / scale, mean, scale


def _checked(behaviour: np.ndarray | None, n: int) -> np.ndarray:
    if behaviour is None:
        raise ValueError("identifier.codes.rqvae.alpha is above 0, but there are no vectors of behaviour. Pass some, or set it to 0.")
    if behaviour.ndim != 2 or len(behaviour) != n:
        raise ValueError(f"The vectors of behaviour have the shape {behaviour.shape}; expected a row for each of {n:,} items.")
    return behaviour.astype(np.float32)


def _digest(*arrays: np.ndarray | None) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(b"none" if array is None else f"{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def _network(dims: int, config: QuantizerConfig, behaviour_dims: int) -> Any:
    """Encoder, decoder, one table a level, and the map from a latent to behaviour, if there is any."""
    import torch
    from torch import nn

    widths = [dims, *config.rqvae.hidden, config.rqvae.latent]

    def affine(sizes: list[int]) -> nn.Sequential:
        layers = [part for a, b in pairwise(sizes) for part in (nn.ReLU(), nn.Linear(a, b))]
        return nn.Sequential(*layers[1:])

    tables = nn.ParameterList([nn.Parameter(torch.zeros(size, config.rqvae.latent)) for size in config.sizes])
    net = nn.ModuleDict({"encoder": affine(widths), "decoder": affine(widths[::-1])})
    net["tables"] = tables
    if behaviour_dims:
        net["behaviour"] = nn.Linear(config.rqvae.latent, behaviour_dims, bias=False)
    return net


def _optimizer(net: Any, settings: RQVAEConfig) -> Any:
    import torch

    decayed = [p for name, p in net.named_parameters() if p.ndim > 1 and not name.startswith("tables")]
    others = [p for name, p in net.named_parameters() if p.ndim < 2 or name.startswith("tables")]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, settings.learning_rate, fused=True)


def _loss(net: Any, x: Any, behaviour: Any, settings: RQVAEConfig) -> tuple[Any, list[Any], list[Any]]:
    """The loss of a batch [b, d], and for each level the codes int64 [b] and the residuals [b, latent] that they are nearest to."""
    latent = net["encoder"](x)
    rest, loss = latent, 0.0
    codes: list[Any] = []
    rests: list[Any] = []
    for level, table in enumerate(net["tables"]):
        balanced = settings.sinkhorn and level == len(net["tables"]) - 1
        codes.append(_assigned(rest.detach(), table.detach(), balanced))
        rests.append(rest.detach())
        chosen = table[codes[-1]]
        loss = loss + (rest.detach() - chosen).square().sum(1).mean()
        loss = loss + settings.beta * (rest - chosen.detach()).square().sum(1).mean()
        rest = rest - chosen.detach()
    quantised = _through_codes(latent, (latent - rest).detach(), settings.gradient)
    loss = loss + (net["decoder"](quantised) - x).square().sum(1).mean()
    if behaviour is not None:
        loss = loss + settings.alpha * _contrast(net["behaviour"](quantised), behaviour)
    return loss, codes, rests


def _assigned(rest: Any, table: Any, balanced: bool = False) -> Any:
    """The nearest row of the table, int64 [b]. Balanced: the likeliest one of the plan that gives every row the same share of the batch at
    the least cost, with a little entropy (Sinkhorn's algorithm, on logarithms; Cuturi, 2013)."""
    import torch

    costs = (rest * rest).sum(1, keepdim=True) - 2 * rest @ table.T + (table * table).sum(1)
    if not balanced:
        return costs.argmin(1)
    middle, half = (costs.max() + costs.min()) / 2, (costs.max() - costs.min()) / 2
    plan = (middle - costs).double() / (half.clamp_min(1e-12).double() * _SINKHORN_EPSILON)
    for _ in range(_SINKHORN_ROUNDS):
        plan = plan - torch.logsumexp(plan, 0, keepdim=True)
        plan = plan - torch.logsumexp(plan, 1, keepdim=True)
    return plan.argmax(1)


def _through_codes(latent: Any, quantised: Any, gradient: str) -> Any:
    """`quantised` [b, latent] as a function of `latent`, for the gradient. "rotation": a reflection at the half-way vector and one at the
    goal turn the latent there, and a factor gives it the goal's length (Fifty et al., 2024, arXiv 2410.06424, section 4.2)."""
    import torch.nn.functional as F

    if gradient == "straight-through":
        return latent + (quantised - latent).detach()
    start = latent.detach()
    a, b = F.normalize(start), F.normalize(quantised)
    between = F.normalize(a + b)
    turned = latent - 2 * (latent * between).sum(1, keepdim=True) * between + 2 * (latent * a).sum(1, keepdim=True) * b
    return turned * (quantised.norm(dim=1, keepdim=True) / start.norm(dim=1, keepdim=True).clamp_min(1e-12))


def _contrast(mapped: Any, behaviour: Any) -> Any:
    """InfoNCE: each item's own vector of behaviour against those of the other items of the batch; items without one are left out."""
    import torch

    known = behaviour.any(1)
    if int(known.sum()) < 2:
        return mapped.sum() * 0.0
    scores = mapped[known] @ behaviour[known].T
    return torch.nn.functional.cross_entropy(scores, torch.arange(len(scores), device=scores.device))


def _restart(tables: Any, optimizer: Any, idle: list[Any], used: list[Any], rests: list[Any], limit: int, rng: Any) -> None:
    """Counts the epochs in which a code had no item; at `limit`, what random items of the last batch have left becomes the code."""
    import torch

    for table, epochs, seen, rest in zip(tables, idle, used, rests, strict=True):
        epochs += 1
        epochs[seen] = 0
        dead = torch.nonzero(epochs >= limit).flatten()
        if not len(dead):
            continue
        chosen = rng.choice(len(rest), len(dead), replace=len(dead) > len(rest))
        with torch.no_grad():
            table[dead] = rest[torch.from_numpy(chosen).to(rest.device)]
        for moment in ("exp_avg", "exp_avg_sq"):
            optimizer.state[table][moment][dead] = 0
        epochs[dead] = 0


def _layers(sequence: Any) -> Layers:
    affine = [part for part in sequence if hasattr(part, "weight")]
    return tuple((part.weight.detach().cpu().numpy().copy(), part.bias.detach().cpu().numpy().copy()) for part in affine)
