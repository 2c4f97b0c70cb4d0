"""RQ-VAE: what it learns on clusters, what its codebook says without torch, and that an interruption changes nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grlm_hf.identifiers.codebook import Codebook
from grlm_hf.indexing.codes import CodesConfig
from grlm_hf.indexing.quantizers import rqvae
from grlm_hf.indexing.quantizers.config import QuantizerConfig, RQVAEConfig
from grlm_hf.indexing.quantizers.fit import fit_codebook
from grlm_hf.recipe import load_recipe

torch = pytest.importorskip("torch")
pytest.importorskip("faiss")


def clusters(n: int, each: int, spread: float = 0.15, dims: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Vectors float32 [n · each, dims] around n random centres far from zero, and the cluster of each."""
    rng = np.random.default_rng(5)
    labels = np.repeat(np.arange(n), each)
    vectors = 3 + rng.standard_normal((n, dims))[labels] + spread * rng.standard_normal((n * each, dims))
    return (2 * vectors).astype(np.float32), labels


def settings(codes: list[int], seed: int = 0, **more: Any) -> QuantizerConfig:
    small: dict[str, Any] = {"hidden": [32], "latent": 8, "epochs": 40, "batch_size": 64}
    return QuantizerConfig("rqvae", len(codes), codes, seed=seed, rqvae=RQVAEConfig(**small | more))


def same(a: Codebook, b: Codebook) -> bool:
    """Whether all arrays are equal, bit by bit."""
    arrays = [[*c.tables, *(x for layer in (*c.encoder, *c.decoder) for x in layer)] for c in (a, b)]
    return len(arrays[0]) == len(arrays[1]) and all(np.array_equal(x, y) for x, y in zip(*arrays, strict=True))


@pytest.mark.parametrize("more", [{}, {"gradient": "rotation"}, {"sinkhorn": True}, {"hidden": []}, {"restart": 0}], ids=str)
def test_a_cluster_shares_its_first_code(more: dict[str, Any]) -> None:
    vectors, labels = clusters(4, 40)
    found = fit_codebook(vectors, settings([4, 8], **more))
    first = found.codes(vectors)[:, 0]
    assert [len(set(first[labels == k])) for k in range(4)] == [1] * 4
    assert len(set(first)) == 4
    assert found.structure == "residual"
    assert found.sizes == (4, 8)
    assert found.facts["quantizer"] == "rqvae"


def test_the_reconstruction_is_better_than_the_mean_and_as_the_facts_say() -> None:
    vectors, _ = clusters(16, 40)
    found = fit_codebook(vectors, settings([16, 16], epochs=60))
    error, of_mean = (np.square(vectors - guess).sum(1).mean() for guess in (found.vectors(found.codes(vectors)), vectors.mean(0)))
    facts = found.facts["rqvae"]
    assert facts["reconstruction_error"] == pytest.approx(error / of_mean, rel=1e-3)
    assert error < 0.3 * of_mean
    assert np.square(vectors - found.vectors(found.codes(vectors)[:, :1])).sum(1).mean() < of_mean
    assert facts["epochs"] == 60


@pytest.mark.parametrize("seed", range(5))
def test_nearly_all_first_codes_are_used(seed: int) -> None:
    vectors, _ = clusters(64, 16)
    found = fit_codebook(vectors, settings([64, 16], seed))
    assert found.facts["rqvae"]["codes_used"][0] >= 0.95
    assert found.facts["rqvae"]["codes_used"][0] == len(set(found.codes(vectors)[:, 0])) / 64


def test_a_code_without_items_restarts_where_items_are() -> None:
    tables = [torch.nn.Parameter(torch.tensor([[0.0], [99.0]]))]
    optimizer, rests, rng = torch.optim.AdamW(tables), [torch.tensor([[7.0], [7.0]])], np.random.default_rng(0)
    tables[0].grad = torch.ones_like(tables[0])
    optimizer.step()
    idle, used = [torch.zeros(2, dtype=torch.int64)], [torch.tensor([True, False])]
    before = tables[0].detach().clone()
    rqvae._restart(tables, optimizer, idle, used, rests, 2, rng)
    assert torch.equal(tables[0], before)
    rqvae._restart(tables, optimizer, idle, used, rests, 2, rng)
    assert tables[0].tolist() == [before[0].tolist(), [7.0]]
    assert optimizer.state[tables[0]]["exp_avg"].bool().tolist() == [[True], [False]]
    assert idle[0].tolist() == [0, 0]


def test_the_codebook_without_torch_gives_the_codes_of_torch(tmp_path: Path) -> None:
    vectors, _ = clusters(16, 40, spread=1.0)
    found = fit_codebook(vectors, settings([16, 16, 16], epochs=10))
    found.save(tmp_path / "codes.safetensors")
    x = torch.from_numpy(vectors)
    for n, (weight, bias) in enumerate(found.encoder):
        x = torch.nn.functional.linear(x.relu() if n else x, torch.from_numpy(weight), torch.from_numpy(bias))
    codes = []
    for table in map(torch.from_numpy, found.tables):
        codes.append(rqvae._assigned(x, table))
        assert torch.equal(codes[-1], torch.cdist(x, table).argmin(1))
        x = x - table[codes[-1]]
    assert np.array_equal(found.codes(vectors), torch.stack(codes, 1).numpy())
    assert np.array_equal(Codebook.load(tmp_path / "codes.safetensors").codes(vectors), found.codes(vectors))


def test_the_rotation_arrives_at_the_codes_and_turns_the_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    latent, goal, gradient = (torch.randn(6, 5, generator=generator, dtype=torch.float64) for _ in range(3))
    latent.requires_grad_()
    for how in ("straight-through", "rotation"):
        latent.grad = None
        reached = rqvae._through_codes(latent, goal, how)
        assert torch.allclose(reached, goal)
        reached.backward(gradient)
        if how == "straight-through":
            assert torch.equal(latent.grad, gradient)
    stretch = goal.norm(dim=1) / latent.norm(dim=1)
    cosines = [(a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)) for a, b in ((latent.grad, latent), (gradient, goal))]
    assert torch.allclose(latent.grad.norm(dim=1), gradient.norm(dim=1) * stretch)
    assert torch.allclose(*cosines)  # the angle between gradient and vector stays


def test_a_balanced_assignment_uses_codes_more_equally() -> None:
    generator = torch.Generator().manual_seed(0)
    rest, table = torch.randn(400, 4, generator=generator), torch.randn(8, 4, generator=generator)
    counts, nearest = (torch.bincount(rqvae._assigned(rest, table, balanced), minlength=8) for balanced in (True, False))
    assert counts.min() >= 30
    assert counts.max() <= 70
    assert nearest.max() - nearest.min() > 20


def test_behaviour_draws_the_codes_of_items_together() -> None:
    """Vectors say nothing; behaviour has four groups, and half of the items have none."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((200, 16)).astype(np.float32)
    group = rng.integers(4, size=200)
    behaviour = np.eye(4, dtype=np.float32)[group]
    behaviour[100:] = 0

    def agreement(alpha: float) -> float:
        codes = fit_codebook(vectors, settings([4], alpha=alpha, epochs=150), behaviour=behaviour).codes(vectors)[:100, 0]
        return sum(np.bincount(group[:100][codes == c], minlength=4).max() for c in range(4)) / 100

    assert agreement(5.0) > agreement(0.0) + 0.1


def test_the_same_seed_gives_the_same_codebook_and_the_random_state_stays() -> None:
    vectors, _ = clusters(8, 20)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    found = [fit_codebook(vectors, settings([8, 8], seed, epochs=12)) for seed in (1, 1, 2)]
    assert same(found[0], found[1])
    assert not same(found[0], found[2])
    assert torch.equal(before, torch.get_rng_state())


_KILLED = """
import os, signal, sys
import numpy as np
from grlm_hf.indexing.quantizers import rqvae
from tests.indexing.test_rqvae import clusters, settings
kept, step, steps = rqvae._restart, 0, 13
def restart(*given):
    global step
    kept(*given)
    step += 1
    if step == steps:
        os.kill(os.getpid(), signal.SIGKILL)
rqvae._restart = restart
rqvae.fit_rqvae(clusters(16, 20)[0], settings([32, 32], epochs=25), work=sys.argv[1])
"""


def test_a_killed_training_resumes_to_the_same_codebook(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    place = {**os.environ, "PYTHONPATH": str(root)}
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path)], cwd=root, env=place, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["rqvae.state"]
    vectors, config = clusters(16, 20)[0], settings([32, 32], epochs=25)
    whole = fit_codebook(vectors, config)
    ran: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        kept = rqvae._restart
        patch.setattr(rqvae, "_restart", lambda *given: (ran.append(1), kept(*given)))
        resumed = fit_codebook(vectors, config, work=tmp_path)
    assert len(ran) == 14  # from epoch 10 on; after the last one, none restarts
    assert same(whole, resumed)
    assert whole.hash == resumed.hash


def test_the_state_of_another_training_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, config = clusters(8, 20)[0], settings([8], epochs=11)
    fit_codebook(vectors, config, work=tmp_path)
    with pytest.raises(ValueError, match=r"is the state of another training \(seed 0 → 1\)\. Choose another folder, or remove it"):
        fit_codebook(vectors, replace(config, seed=1), work=tmp_path)
    with pytest.raises(ValueError, match=r"another training \(data '\w+' → '\w+'\)"):
        fit_codebook(vectors[::-1], config, work=tmp_path)
    (tmp_path / "rqvae.state").write_bytes(b"half")
    with pytest.raises(ValueError, match="not a readable rqvae model"):
        fit_codebook(vectors, config, work=tmp_path)


def test_wrong_input_is_named() -> None:
    vectors, _ = clusters(8, 20)
    with pytest.raises(ValueError, match="alpha is above 0, but there are no vectors of behaviour"):
        fit_codebook(vectors, settings([8], alpha=1.0))
    with pytest.raises(ValueError, match=r"have the shape \(3, 4\); expected a row for each of 160 items"):
        fit_codebook(vectors, settings([8], alpha=1.0), behaviour=np.ones((3, 4), np.float32))
    with pytest.raises(ValueError, match="Found 160 items for 256 codes"):
        fit_codebook(vectors, settings([256]))
    with pytest.raises(ValueError, match="NaN or infinity"):
        fit_codebook(np.full((160, 3), np.nan, np.float32), settings([8]))
    with pytest.raises(ValueError, match=r"The loss of the RQ-VAE is \w+ in epoch \d+\. Lower identifier\.codes\.rqvae\.learning_rate"):
        fit_codebook(vectors, settings([8], learning_rate=1e30))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("gradient=none", "expected one of 'straight-through', 'rotation'"),
        ("epochs=0", "expected at least 1"),
        ("beta=-1", "expected at least 0"),
        ("hidden=[64,0]", "expected 1 to 1048576"),
    ],
)
def test_a_wrong_setting_is_named(setting: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"identifier\.codes\.rqvae\.{setting.partition('=')[0]}.* {message}"):
        load_recipe(settings=[f"identifier.codes.rqvae.{setting}"])


def test_histories_are_read_for_behaviour_only() -> None:
    contrast = RQVAEConfig(alpha=0.1)
    assert not CodesConfig(rqvae=contrast).needs_histories
    assert not CodesConfig("rqvae").needs_histories
    assert not CodesConfig("random", behaviour=1.0).needs_histories
    assert CodesConfig("rqvae", rqvae=contrast).needs_histories
    assert CodesConfig("opq", behaviour=1.0).needs_histories
