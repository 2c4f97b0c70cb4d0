from __future__ import annotations

import itertools
import random
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import forks
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from toys import toy_catalog, toy_histories

from grlm_hf.data.interactions import Case, History
from grlm_hf.evaluation.metrics import DEPTH
from grlm_hf.evaluation.scored import scored
from grlm_hf.priors import sequence_training
from grlm_hf.priors.sequence import SequenceConfig, SequenceModel, make_network
from grlm_hf.priors.sequence_training import _batches, _step, _training_data, train_sequence_model

TINY = SequenceConfig(layers=1, width=16, heads=2, max_items=4, dropout=0.1, epochs=3, batch_positions=32, save_steps=2)
IDS = [f"i{n}" for n in range(30)]
NEVER = IDS[-2:]
"""Two items that no history holds."""


def following(users: int = 120) -> list[History]:
    """Item n is always followed by item 7 n + 3, modulo 28."""
    walks = []
    for user in range(users):
        walk = [user % 28]
        for _ in range(1 + user % 6):
            walk.append((7 * walk[-1] + 3) % 28)
        walks.append(History(f"u{user}", tuple(IDS[n] for n in walk)))
    return walks


@pytest.fixture(scope="module")
def learnt() -> SequenceModel:
    return train_sequence_model(IDS, following(), replace(TINY, width=32, epochs=30, batch_positions=64, learning_rate=1e-2))


def weights(model: SequenceModel) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.net.state_dict().items()}


def same(a: SequenceModel, b: SequenceModel) -> bool:
    one, other = weights(a), weights(b)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def random_histories(n: int, longest: int, seed: int = 0) -> list[list[str]]:
    rng = random.Random(seed)
    return [[rng.choice(IDS[:-2]) for _ in range(rng.randint(1, longest))] for _ in range(n)]


# --- what it learns -----------------------------------------------------------------------------------------------------------------


def test_what_always_follows_is_learnt(learnt: SequenceModel) -> None:
    first = [[IDS[n]] for n in range(28)]
    assert [IDS[r] for r in learnt.scores(first).argmax(1)] == [IDS[(7 * n + 3) % 28] for n in range(28)]
    assert learnt.log[-1]["loss"] < learnt.log[0]["loss"] / 3
    assert [entry["epoch"] for entry in learnt.log] == list(range(1, 31))


def test_scores_are_log_probabilities_of_a_plain_forward(learnt: SequenceModel) -> None:
    """Alone, in a batch of other lengths, or as the middle of a longer sequence: later items change nothing."""
    histories = random_histories(60, longest=9)
    scores = learnt.scores(histories)
    assert scores.dtype == np.float32
    assert scores.shape == (60, 30)
    assert np.allclose(np.exp(scores.astype(float)).sum(1), 1)
    for history, row in zip(histories, scores, strict=True):
        assert np.allclose(learnt.scores([history])[0], row, atol=1e-5)
        shown = torch.tensor([[learnt.rows[i] for i in history[-4:]]])
        longer = torch.cat([shown, torch.randint(30, (1, 3))], 1)
        hidden = learnt.net(longer).last_hidden_state[0, shown.shape[1] - 1]
        expected = (learnt.net.embed_in.weight @ hidden).log_softmax(0)
        assert np.allclose(expected.detach().numpy(), row, atol=1e-5)


def test_a_history_longer_than_the_model_reads_is_cut_at_its_old_end(learnt: SequenceModel) -> None:
    (history,) = random_histories(1, 1, seed=1)
    recent = [IDS[3], IDS[9], IDS[3], IDS[20]]
    assert np.allclose(learnt.scores([history * 30 + recent]), learnt.scores([recent]), atol=1e-5)


def test_items_never_seen_say_nothing(learnt: SequenceModel) -> None:
    known = [IDS[5], IDS[11]]
    assert np.allclose(learnt.scores([[NEVER[0], known[0], "unknown", known[1], NEVER[1]]]), learnt.scores([known]), atol=1e-5)
    share = (learnt.counts + 1) / (learnt.counts + 1).sum()
    for nothing in ([], ["unknown"], NEVER):
        assert np.allclose(learnt.scores([nothing, known])[0], np.log(share), atol=1e-6)
    assert learnt.scores([]).shape == (0, 30)


# --- neighbours ---------------------------------------------------------------------------------------------------------------------


def test_neighbours_are_the_nearest_by_cosine(learnt: SequenceModel) -> None:
    neighbors = learnt.neighbors(5)
    assert neighbors.item_ids == tuple(IDS)
    assert (neighbors.facts["k"], neighbors.facts["n_items"], neighbors.facts["never_seen"]) == (5, 30, 2)
    embedding = learnt.net.embed_in.weight.detach().double().numpy()
    unit = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    for row in range(28):
        cosine = unit[row] @ unit[:28].T
        cosine[row] = -np.inf
        assert neighbors.of(row) == np.argsort(-cosine, kind="stable")[:5].tolist()
        assert np.allclose(neighbors.scores[row], np.sort(cosine)[::-1][:5], atol=1e-6)
    for never in (28, 29):
        assert neighbors.of(never) == []
        assert not learnt.item_vectors[never].any()


def test_items_with_the_same_surroundings_are_neighbours() -> None:
    """i0 and i1 always stand before i10 and after i20; i2 and i3 before i11 and after i21."""
    rng = random.Random(0)
    walks = []
    for user in range(200):
        pair = rng.randrange(2)
        walks.append(History(f"u{user}", (IDS[20 + pair], IDS[2 * pair + rng.randrange(2)], IDS[10 + pair])))
    model = train_sequence_model(IDS, walks, replace(TINY, epochs=20, batch_positions=64, learning_rate=1e-2))
    assert [model.neighbors(1).of(n) for n in range(4)] == [[1], [0], [3], [2]]


# --- the method ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_the_method_ranks_the_catalog_by_score(exclude_seen: bool) -> None:
    """Of a catalog that has lost items and gained others since, all of whose items fit into a ranking."""
    catalog = toy_catalog()
    ids = [i.item_id for i in catalog]
    histories = [h.items for h in toy_histories()]
    trained = [History(h.user_id, tuple(i for i in h.items if i not in ids[:2])) for h in toy_histories()]
    model = train_sequence_model([*ids[2:], "gone"], trained, TINY)
    rankings = scored(model, catalog, exclude_seen)(histories).items
    scores = model.scores(histories)
    for history, ranking, row in zip(histories, rankings, scores, strict=True):
        known = sorted(ids[2:], key=lambda i: (-row[model.rows[i]], i))
        expected = [*known, *sorted(ids[:2])]  # what the model does not know comes last
        assert ranking == [i for i in expected if not (exclude_seen and i in history)]


def test_the_method_names_the_best_of_many_and_breaks_ties_by_id() -> None:
    from grlm_hf import Catalog, Item

    names = [f"n{n}" for n in range(100, 0, -1)]
    catalog = Catalog([Item(n, n) for n in names], [("word", n) for n in names])
    model = SequenceModel(tuple(names), np.ones(100, np.int64), make_network(100, TINY).eval(), TINY)
    with torch.no_grad():
        model.net.embed_in.weight[10:] = model.net.embed_in.weight[10]  # ninety items with one score
    history = ["n95", "n3"]
    row = model.scores([history])[0]
    assert len(set(row[10:])) == 1
    (ranking,) = scored(model, catalog, True)([history]).items
    expected = sorted(set(names) - set(history), key=lambda i: (-row[model.rows[i]], i))
    assert ranking == expected[:DEPTH]


def test_only_items_of_the_domain_that_is_asked_for(learnt: SequenceModel) -> None:
    from grlm_hf import Catalog, Item

    catalog = Catalog([Item(i, i, domain="odd" if n % 2 else "even") for n, i in enumerate(IDS)], [("word", i) for i in IDS])
    method = scored(learnt, catalog, False)
    histories = random_histories(20, 5)
    rows = learnt.scores(histories)
    for domain, ids in (("odd", IDS[1::2]), ("even", IDS[::2])):
        expected = [sorted(ids, key=lambda i: (-row[learnt.rows[i]], i)) for row in rows]
        assert method(histories, domain=domain).items == expected


# --- training -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_items", [1, 3, 20])
def test_every_step_from_an_item_to_the_next_is_a_target_once(max_items: int) -> None:
    histories = [History(h.user_id, h.items) for h in toy_histories()] + [History("one", ("i20",)), History("long", ("i20", "i19") * 30)]
    ids, pieces, counts = _training_data([i.item_id for i in toy_catalog()], histories, max_items)
    assert all(2 <= len(piece) <= max_items + 1 for piece in pieces)
    found = sorted((ids[a], ids[b]) for piece in pieces for a, b in itertools.pairwise(piece))
    assert found == sorted((a, b) for h in histories for a, b in itertools.pairwise(h.items))
    assert counts.sum() == sum(len(h.items) for h in histories) - 1


def test_batches_hold_each_piece_once_and_like_lengths_together() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 21, 5000)
    epochs = [_batches(lengths, 256, seed, epoch) for seed in (0, 1) for epoch in range(3)]
    for batches in epochs:
        assert len(batches) == len(epochs[0])  # as many steps in every epoch
        assert sorted(np.concatenate(batches)) == list(range(5000))
        sizes = [lengths[batch].sum() for batch in batches]
        assert max(sizes) < 256 + 20
        assert sum(lengths[batch].max() * len(batch) for batch in batches) < 1.05 * lengths.sum()  # hardly any padding
    assert len({tuple(batches[0].tolist()) for batches in epochs}) == len(epochs)


def test_the_loss_of_a_step_is_that_of_each_target_alone() -> None:
    config = replace(TINY, dropout=0.0, bf16=False)
    pieces = [[1, 2, 3, 4, 5], [6, 7], [8, 9, 8]]
    net = make_network(30, config)
    alone = []
    for piece in pieces:
        for end in range(1, len(piece)):
            hidden = net(torch.tensor([piece[:end]])).last_hidden_state[0, -1]
            alone.append(-float((net.embed_in.weight @ hidden).log_softmax(0)[piece[end]].detach()))
    optimizer = sequence_training._optimizer(net, config)
    assert _step(net, optimizer, pieces, 0.0, config) == pytest.approx(np.mean(alone), abs=1e-5)


def test_the_order_of_items_and_histories_does_not_matter_but_the_seed_does() -> None:
    state = torch.get_rng_state()
    model = train_sequence_model(IDS, following(), TINY)
    assert torch.equal(torch.get_rng_state(), state)  # nor is the caller's random state touched
    shuffled, histories = list(IDS), following()
    random.Random(0).shuffle(shuffled)
    random.Random(1).shuffle(histories)
    torch.manual_seed(123)
    again = train_sequence_model(shuffled, histories, TINY)
    asked = random_histories(20, 6)
    columns = [again.rows[i] for i in IDS]
    assert torch.equal(again.net.embed_in.weight[columns], model.net.embed_in.weight)
    assert np.array_equal(again.counts[columns], model.counts)
    assert np.allclose(again.scores(asked)[:, columns], model.scores(asked), atol=1e-5)
    assert not same(model, train_sequence_model(IDS, following(), TINY, seed=1))


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from priors import test_sequence as toys
from grlm_hf.priors import sequence_training as training
taken, step = [], training._step
def counted(*args):
    taken.append(1)
    if len(taken) == 14:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(*args)
training._step = counted
toys.watched(Path(sys.argv[1]))
"""


def watched(work: Path | None) -> SequenceModel:
    cases = [Case(h.user_id, h.items[:-1], h.items[-1]) for h in following(40) if len(h.items) > 1]
    return train_sequence_model(IDS, following(), TINY, validation=cases, seed=5, work=work)


def test_a_killed_training_goes_on_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = forks.run(KILLED, str(tmp_path), str(Path(__file__).parents[1]))
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    steps: list[int] = []

    def counted(*args: Any) -> float:
        steps.append(1)
        return _step(*args)

    monkeypatch.setattr(sequence_training, "_step", counted)
    resumed = watched(tmp_path)
    left = len(steps)
    whole = watched(None)
    total = len(steps) - left
    assert total - left == 12  # it was killed in its 14th step; a state was written every other
    assert total % len(whole.log) == 0
    assert 12 % (total // len(whole.log)) != 0  # within an epoch
    assert same(resumed, whole)
    assert resumed.log == whole.log
    taken = len(steps)
    assert same(watched(tmp_path), whole)
    assert len(steps) == taken  # a finished training is not begun anew


def test_the_best_epoch_by_validation_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    after: list[dict[str, torch.Tensor]] = []

    def recall(model: SequenceModel, cases: object, exclude_seen: bool) -> float:
        after.append(weights(model))
        return [0.2, 0.5, 0.5, 0.4, 0.9][len(after) - 1]

    monkeypatch.setattr(sequence_training, "_recall", recall)
    cases = [Case("u", (IDS[0],), IDS[3])]
    ids = sorted(IDS)  # the order in which it trains
    model = train_sequence_model(ids, following(), replace(TINY, epochs=5, patience=2), validation=cases)
    assert len(after) == 4  # two epochs without a better one ended it
    assert [entry["recall@10"] for entry in model.log] == [0.2, 0.5, 0.5, 0.4]
    assert all(torch.equal(after[1][name], tensor) for name, tensor in model.net.state_dict().items())


def test_validation_recall_is_that_of_the_method(learnt: SequenceModel) -> None:
    from grlm_hf import Catalog, Item

    catalog = Catalog([Item(i, i) for i in IDS], [("word", i) for i in IDS])
    rng = random.Random(3)
    cases = [Case("u", tuple(h), rng.choice([*IDS, "unknown"])) for h in random_histories(300, 5)]
    reached = []
    for exclude_seen in (True, False):
        rankings = scored(learnt, catalog, exclude_seen)([c.history for c in cases]).items
        reached.append(sum(c.target in ranking[:10] for c, ranking in zip(cases, rankings, strict=True)) / 300)
        assert 0 < reached[-1] < 1
        assert sequence_training._recall(learnt, cases, exclude_seen) == reached[-1]
    assert reached[0] != reached[1]


# --- on disk, and bad input ---------------------------------------------------------------------------------------------------------


def test_a_saved_model_scores_the_same(learnt: SequenceModel, tmp_path: Path) -> None:
    state = torch.get_rng_state()
    learnt.save(tmp_path / "model")
    again = SequenceModel.load(tmp_path / "model")
    assert torch.equal(torch.get_rng_state(), state)
    assert (again.item_ids, again.config, again.log) == (learnt.item_ids, learnt.config, learnt.log)
    assert np.array_equal(again.counts, learnt.counts)
    histories = random_histories(10, 6)
    assert np.array_equal(again.scores(histories), learnt.scores(histories))


def test_refuses_what_is_no_model(learnt: SequenceModel, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    with pytest.raises(ValueError, match="No sequence model at"):
        SequenceModel.load(tmp_path / "none")
    learnt.save(tmp_path / "model")
    (tmp_path / "half").write_bytes((tmp_path / "model").read_bytes()[:-1000])
    with pytest.raises(ValueError, match="truncated"):
        SequenceModel.load(tmp_path / "half")
    save_file({"weight": torch.ones(2)}, tmp_path / "other")
    with pytest.raises(ValueError, match="no sequence model"):
        SequenceModel.load(tmp_path / "other")
    train_sequence_model(IDS, following(), TINY, work=tmp_path)
    with pytest.raises(ValueError, match="not a sequence model"):
        SequenceModel.load(tmp_path / "sequence.state")


def test_refuses_to_go_on_with_another_training(tmp_path: Path) -> None:
    train_sequence_model(IDS, following(), TINY, work=tmp_path)
    with pytest.raises(ValueError, match=r"another training \(sequence_model.dropout 0.1 → 0.3\)"):
        train_sequence_model(IDS, following(), replace(TINY, dropout=0.3), work=tmp_path)
    with pytest.raises(ValueError, match=r"another training \(seed 0 → 1"):
        train_sequence_model(IDS, following(), TINY, seed=1, work=tmp_path)
    with pytest.raises(ValueError, match=r"another training \(data"):
        train_sequence_model(IDS, following()[1:], TINY, work=tmp_path)


def test_refuses_data_it_cannot_learn_from() -> None:
    with pytest.raises(ValueError, match="1 are repeated, such as 'i3'"):
        train_sequence_model([*IDS, "i3"], following(), TINY)
    with pytest.raises(ValueError, match="User 'u' has item 'x', which is not among the 30 item ids"):
        train_sequence_model(IDS, [History("u", ("i1", "x"))], TINY)
    with pytest.raises(ValueError, match="still has its held-out items"):
        train_sequence_model(IDS, [History("u", ("i1", "i2", "i3"), n_test=1)], TINY)
    with pytest.raises(ValueError, match="None of the 1 histories has two items"):
        train_sequence_model(IDS, [History("u", ("i1",))], TINY)
    with pytest.raises(ValueError, match="no validation cases"):
        train_sequence_model(IDS, following(), replace(TINY, patience=1))


def test_a_loss_that_is_not_finite_ends_it_and_leaves_the_last_good_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(net: Any, *args: Any) -> float:
        steps.append(1)
        if len(steps) == 6:
            with torch.no_grad():
                net.layers[0].mlp.dense_4h_to_h.weight.fill_(float("inf"))
        return _step(net, *args)

    steps: list[int] = []
    monkeypatch.setattr(sequence_training, "_step", broken)
    with pytest.raises(ValueError, match="The loss is nan at step 6 "):
        train_sequence_model(IDS, following(), TINY, work=tmp_path)
    monkeypatch.setattr(sequence_training, "_step", _step)
    assert same(train_sequence_model(IDS, following(), TINY, work=tmp_path), train_sequence_model(IDS, following(), TINY))


@pytest.mark.parametrize(
    ("field", "value"), [("layers", 0), ("width", 6), ("dropout", 1.0), ("epochs", 0), ("max_items", 0), ("learning_rate", float("inf"))]
)
def test_refuses_a_configuration_that_cannot_be(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"sequence_model.{field} is {value}"):
        SequenceConfig(**{field: value})


def test_the_configuration_is_omegaconfs() -> None:
    merged = OmegaConf.merge(OmegaConf.structured(SequenceConfig()), {"epochs": 3})
    assert OmegaConf.to_object(merged) == SequenceConfig(epochs=3)
