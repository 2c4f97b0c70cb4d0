from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from grlm_hf.data.interactions import Case, History
from grlm_hf.priors.fused import Fused
from grlm_hf.priors.tuning import Targets
from grlm_hf.priors.vae import MultVAE, VAEConfig, _network, _step

IDS = [f"i{n}" for n in range(13)]
NEVER = IDS[-1]
RNG = np.random.default_rng(0)
GROUPS = (IDS[:6], IDS[6:12])
HISTORIES = [History(f"u{n}", tuple(RNG.permutation(GROUPS[n % 2])[:4].tolist())) for n in range(120)]
SMALL = VAEConfig(hidden=16, latent=8, epochs=20, batch_users=20, learning_rate=1e-2, bf16=False)


def test_the_loss_is_that_of_the_paper() -> None:
    """β = 0 and no noise in z: -Σ log softmax at the history's items. Then β times the KL term is added."""
    config = VAEConfig(hidden=16, latent=8, dropout=0.0, bf16=False)
    sets = [np.array([0, 3]), np.array([1, 4, 5])]

    def loss(beta: float, variance: float) -> float:
        torch.manual_seed(0)
        net = _network(len(IDS), config)
        with torch.no_grad():  # the second half of the layer is the log-variance
            net["encode"].weight[config.latent :] = 0
            net["encode"].bias[config.latent :] = variance
        found.append(net)
        optimizer = torch.optim.SGD(net.parameters(), 0.0)
        return _step(net, optimizer, sets, beta, config)

    found: list[torch.nn.ModuleDict] = []
    got = loss(0.0, -60.0)
    net = found[-1]
    x = torch.zeros(2, len(IDS))
    for row, items in enumerate(sets):
        x[row, items] = 1 / len(items) ** 0.5
    mean = (torch.tanh(x @ net["read"].weight) @ net["encode"].weight.T + net["encode"].bias)[:, : config.latent]
    logits = net["write"](torch.tanh(net["decode"](mean)))
    want = -sum(float(logits.detach()[row].log_softmax(0)[items].sum()) for row, items in enumerate(sets)) / 2
    assert got == pytest.approx(want, rel=1e-4)
    kl = 0.5 * float((np.exp(-60.0) + mean.detach() ** 2 - 1 + 60.0).sum(1).mean())
    assert loss(0.5, -60.0) - got == pytest.approx(0.5 * kl, rel=1e-4)


def test_it_learns_which_items_occur_together(tmp_path: Path) -> None:
    vae = MultVAE.learn(IDS, HISTORIES, SMALL)
    histories = [GROUPS[n % 2][n % 4 : n % 4 + 2] for n in range(8)]
    scores = vae.scores(histories)
    assert np.allclose(np.exp(scores).sum(1), 1, atol=1e-4)
    for n, row in enumerate(scores):
        ours, theirs = ([row[IDS.index(i)] for i in GROUPS[g]] for g in (n % 2, 1 - n % 2))
        assert min(ours) > max(theirs)
    assert vae.known.tolist() == [True] * 12 + [False]
    share = (vae.counts + 1) / (vae.counts + 1).sum()
    for nothing in ([], [NEVER], ["unknown"]):
        assert np.allclose(np.exp(vae.scores([nothing])[0]), share, atol=1e-5)
    Fused({"vae": (vae, 1.0)}).save(tmp_path / "prior")
    again = Fused.load(tmp_path / "prior").components["vae"][0]
    assert isinstance(again, MultVAE)
    assert np.array_equal(again.scores(histories), scores)
    assert again.log == vae.log


def test_validation_chooses_the_epoch_and_a_seed_gives_the_same_again() -> None:
    cases = [Case(h.user_id, h.items[:-1], h.items[-1]) for h in HISTORIES[:40]]
    before = torch.random.get_rng_state()
    one, two, other = (MultVAE.learn(IDS, HISTORIES, SMALL, validation=cases, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert np.array_equal(one.scores([["i0"]]), two.scores([["i0"]]))
    assert not np.array_equal(one.scores([["i0"]]), other.scores([["i0"]]))
    best = max(entry["ndcg@10"] for entry in one.log)
    assert Targets(one.item_ids, cases).measure(one) == pytest.approx(best)


def test_a_broken_file_is_a_clear_error(tmp_path: Path) -> None:
    vae = MultVAE.learn(IDS, HISTORIES, VAEConfig(hidden=4, latent=2, epochs=1))
    vae.save(tmp_path / "vae.prior")
    (tmp_path / "vae.prior").write_bytes((tmp_path / "vae.prior").read_bytes()[:200])
    with pytest.raises(ValueError, match=r"vae\.prior"):
        MultVAE.load(tmp_path / "vae.prior")
    with pytest.raises(ValueError, match="nothing to learn from"):
        MultVAE.learn(IDS, [])
