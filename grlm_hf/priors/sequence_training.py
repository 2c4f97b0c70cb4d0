"""Training of the sequence decoder: cross-entropy over the full catalog at every position. On CPUs nearly all time goes into the scores of
a step, targets × items, so no score is computed for padding."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from grlm_hf.data.interactions import Case, History
from grlm_hf.precision import bound_caches
from grlm_hf.priors.scores import training_rows
from grlm_hf.priors.sequence import SequenceConfig, SequenceModel, make_network, padded
from grlm_hf.progress import progress
from grlm_hf.tensors import read_state, write_state

_STATE = "sequence.state"  # safetensors inside; under that name other tools would take it for weights
_ROWS = 1024  # validation cases per batch


def train_sequence_model(
    item_ids: Sequence[str],
    histories: Sequence[History],
    config: SequenceConfig | None = None,
    *,
    validation: Sequence[Case] = (),
    seed: int = 0,
    work: str | Path | None = None,
    exclude_seen: bool = True,
) -> SequenceModel:
    """Trains a sequence decoder: every step from an item to the next is a target once per epoch.

    The result depends on `seed`, not on the order of items or histories. On one machine with one number of threads it is bit-exact, also
    after an interruption.

    Args:
        item_ids: the catalog's ids, in the order of the model's rows and columns.
        validation: cases whose recall@10 is measured after each epoch. With `config.patience` the best epoch's
            weights are kept, otherwise those of the last epoch, when the learning rate has decayed.
        seed: 0 or more; for the initial weights, the order of examples and dropout.
        work: a folder that keeps the state, so that an interrupted training resumes.
        exclude_seen: that recall is of rankings without the items of the history.

    Raises `ValueError` for repeated ids; a history with an unknown id, or with the targets of its own split; no history of two items; a
    negative seed; a state in `work` from another configuration, seed or data; a loss that is not finite.
    """
    import torch

    config = config or SequenceConfig()
    if seed < 0:
        raise ValueError(f"seed is {seed}; expected 0 or more.")
    if config.patience and not validation:
        raise ValueError(f"sequence_model.patience is {config.patience}, but there are no validation cases; pass some, or set it to 0.")
    ids, pieces, counts = _training_data(item_ids, histories, config.max_items)
    lengths = np.array([len(piece) - 1 for piece in pieces])
    per_epoch = len(_batches(lengths, config.batch_positions, seed, 0))
    total = config.epochs * per_epoch
    cases = [(c.history, c.target) for c in validation]
    data = hashlib.sha256(json.dumps([ids, pieces, cases]).encode()).hexdigest()[:16]
    about = {f"sequence_model.{name}": value for name, value in asdict(config).items()} | {"seed": seed, "data": data}
    if not exclude_seen:
        about["exclude_seen"] = False
    state = Path(work) / _STATE if work is not None else None

    # 1. the model, from the beginning or from the state that an interrupted run left
    net = make_network(len(ids), config, seed)
    optimizer = _optimizer(net, config)
    if config.bf16 and net.device.type == "cpu":  # measured here without AMX, too: bfloat16 is no slower than float32
        bound_caches()
    # facts: ``step``; ``running``, the sum of this epoch's losses; ``log``; ``best``, the best epoch and its recall
    found = read_state(state, SequenceModel.kind, about, net, optimizer)
    facts: dict[str, Any] = found[1] if found else {"about": about, "step": 0, "running": 0.0, "log": [], "best": [0, -1.0]}
    kept = found[0].get("best", {}) if found else {}  # the best epoch's weights by name; empty before there are any

    def stopped() -> bool:
        return facts["step"] == total or 0 < config.patience <= len(facts["log"]) - facts["best"][0]

    # 2. the steps; the randomness of a step depends only on the seed and its number
    bar = progress(total=total, initial=facts["step"], desc="sequence decoder", unit="step", disable=total < 200)
    with bar, torch.random.fork_rng():  # keeps the caller's random state
        batches: list[np.ndarray] = []
        while not stopped():
            epoch, place = divmod(facts["step"], per_epoch)
            if not batches or place == 0:
                batches = _batches(lengths, config.batch_positions, seed, epoch)
            torch.manual_seed(int(np.random.SeedSequence([seed, facts["step"]]).generate_state(1)[0]))
            loss = _step(net, optimizer, [pieces[n] for n in batches[place]], _rate(facts["step"], total, config), config)
            facts["step"] += 1
            if not math.isfinite(loss):
                raise ValueError(
                    f"The loss is {loss} at step {facts['step']} (epoch {epoch + 1}). "
                    "Lower sequence_model.learning_rate, or compute in float32: sequence_model.bf16=false."
                )
            facts["running"] += loss * int(lengths[batches[place]].sum())
            bar.update()
            if ended := facts["step"] % per_epoch == 0:
                entry = {"epoch": epoch + 1, "loss": facts["running"] / int(lengths.sum())}
                _end_epoch(SequenceModel(tuple(ids), counts, net.eval(), config), validation, entry, facts, kept, exclude_seen)
                bar.set_postfix({name: f"{value:.4g}" for name, value in entry.items()})
            if state and (ended or facts["step"] % config.save_steps == 0):
                write_state(state, SequenceModel.kind, facts, net, optimizer, {"best": kept})

    # 3. the weights that are kept, rows in the order of `item_ids`
    rows = _finish(net, kept, ids, item_ids)
    return SequenceModel(tuple(item_ids), counts[rows], net.eval(), config, tuple(facts["log"]))


def _training_data(item_ids: Sequence[str], histories: Sequence[History], max_items: int) -> tuple[list[str], list[list[int]], np.ndarray]:
    """Ids in ascending order; pieces of histories, at most `max_items` + 1 positions each, so that every step from an item to the next is
    in exactly one piece, with the piece before it as context; int64 [n_items] counts of the items in histories with a step."""
    ids = sorted(item_ids)
    pieces: list[list[int]] = []
    counts = np.zeros(len(ids), np.int64)
    for places in training_rows(ids, sorted(histories, key=lambda h: (h.user_id, h.items))):
        if len(places) > 1:
            np.add.at(counts, places, 1)
        pieces += [places[max(0, end - 1 - max_items) : end] for end in range(len(places), 1, -max_items)]
    if not pieces:
        raise ValueError(f"None of the {len(histories)} histories has two items; there is no next item to learn from.")
    return ids, pieces, counts


def _batches(lengths: np.ndarray, positions: int, seed: int, epoch: int) -> list[np.ndarray]:
    """An epoch's batches of pieces, the same number in every epoch. A batch has pieces of similar length, for little padding, and about
    `positions` targets. Which pieces of a length meet, and the order of the batches, are random in each epoch."""
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths))
    order = order[np.argsort(lengths[order], kind="stable")]
    before = np.cumsum(lengths[order]) - lengths[order]
    batches = np.split(order, np.flatnonzero(np.diff(before // positions)) + 1)
    return [batches[n] for n in rng.permutation(len(batches))]


def _optimizer(net: Any, config: SequenceConfig) -> Any:
    import torch

    groups = [
        {"params": [p for p in net.parameters() if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in net.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, config.learning_rate, fused=True)


def _rate(step: int, total: int, config: SequenceConfig) -> float:
    return config.learning_rate * min(1.0, (step + 1) / max(1.0, config.warmup * total)) * (1 + float(np.cos(np.pi * step / total))) / 2


def _step(net: Any, optimizer: Any, pieces: Sequence[Sequence[int]], rate: float, config: SequenceConfig) -> float:
    """One training step. Returns the mean loss of its targets in nats; NaN, without a step, if the gradient is not finite."""
    import torch
    from torch.nn import functional as F

    net.train()
    for group in optimizer.param_groups:
        group["lr"] = rate
    ids, real = (t.to(net.device) for t in padded([piece[:-1] for piece in pieces]))
    targets = torch.tensor([n for piece in pieces for n in piece[1:]], device=net.device)
    with torch.autocast(net.device.type, torch.bfloat16, enabled=config.bf16):
        hidden = net(ids).last_hidden_state[real]  # [targets, width]
        logits = F.linear(hidden, net.get_input_embeddings().weight)  # [targets, n_items]
    loss = F.cross_entropy(logits, targets, reduction="none").float().mean()  # a mean in bfloat16 would be rounded
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    if not torch.isfinite(norm):
        return math.nan
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def _finish(net: Any, kept: dict[str, Any], ids: Sequence[str], item_ids: Sequence[str]) -> np.ndarray:
    """Loads the best weights, if any, and puts the embeddings of `ids` into the order of `item_ids`; returns the old row of each."""
    import torch

    if kept:
        net.load_state_dict(kept)
    row = {item: n for n, item in enumerate(ids)}
    rows = np.array([row[item] for item in item_ids])
    with torch.no_grad():
        weight = net.get_input_embeddings().weight
        weight.copy_(weight[torch.from_numpy(rows)])
    return rows


def _end_epoch(
    model: SequenceModel, validation: Sequence[Case], entry: dict[str, float], facts: dict[str, Any], kept: dict[str, Any],
    exclude_seen: bool,
) -> None:  # fmt: skip
    """Measures an epoch on the validation cases, if any, logs its `entry`, and with `patience` keeps its weights if they are the best."""
    if validation:
        entry["recall@10"] = _recall(model, validation, exclude_seen)
        if model.config.patience and entry["recall@10"] > facts["best"][1]:
            facts["best"] = [entry["epoch"], entry["recall@10"]]
            kept.update({name: tensor.clone() for name, tensor in model.net.state_dict().items()})
    facts |= {"log": [*facts["log"], entry], "running": 0.0}


def _recall(model: SequenceModel, cases: Sequence[Case], exclude_seen: bool = True) -> float:
    """Recall@10; ties count against the model."""
    hits = 0
    for start in range(0, len(cases), _ROWS):
        some = cases[start : start + _ROWS]
        for row, case in zip(model.scores([c.history for c in some]), some, strict=True):
            if exclude_seen:
                row[[model.rows[i] for i in case.history if i in model.rows]] = -np.inf
            if case.target in model.rows and (target := row[model.rows[case.target]]) > -np.inf:
                hits += int((row >= target).sum() <= 10)
    return hits / len(cases)
