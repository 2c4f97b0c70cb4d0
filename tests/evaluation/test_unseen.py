"""New items: held out of training and catalog, added to the checkpoint, and asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from toys import toy_catalog, toy_histories

from grlm_hf import GRLMForRecommendation
from grlm_hf.data.interactions import hold_out_items
from grlm_hf.evaluation.evaluate import Setup, evaluate
from grlm_hf.evaluation.generative import constrained
from grlm_hf.evaluation.scored import scored
from grlm_hf.evaluation.unseen import known_catalog, unseen_block, with_new_items
from grlm_hf.priors.text import TextKNN
from grlm_hf.tasks.mixture import MixtureConfig, make_mixture
from grlm_hf.training.scratch import ScratchConfig
from grlm_hf.training.sft import TrainConfig, train

CATALOG = toy_catalog()
SPLIT = hold_out_items(toy_histories(), share=0.35)
HELD = {c.target for c in (*SPLIT.validation, *SPLIT.test)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> GRLMForRecommendation:
    known = known_catalog(CATALOG, SPLIT.train)
    shape = ScratchConfig(vocab_size=380, hidden_size=32, intermediate_size=64, layers=1, heads=1, kv_heads=1, max_positions=256)
    config = TrainConfig(objective="trie", scratch=shape, max_steps=6, batch_size=8, validation_examples=0)
    return train(known, make_mixture(known, SPLIT.train, MixtureConfig(max_history=3)).dataset, tmp_path_factory.mktemp("work"), config)


def test_from_training_without_them_to_the_block(trained: GRLMForRecommendation) -> None:
    new = [i for i in CATALOG if i.item_id not in trained.catalog]
    assert {i.item_id for i in new} == HELD
    before = trained.catalog

    grlm = with_new_items(trained, new)
    assert {i.item_id for i in grlm.catalog} == {i.item_id for i in CATALOG}
    methods = {"grlm": constrained(grlm, True), "text_knn": scored(TextKNN.fit(grlm.catalog.items), grlm.catalog, True)}
    report = evaluate(methods, SPLIT.test, grlm.catalog, Setup("toy", "unseen-items, test", "left out", resamples=20))
    block = unseen_block(report, len(new), extracted=True)
    assert block.items == len(HELD)
    assert (block.cases, block.candidates) == (len(SPLIT.test), len(CATALOG))
    assert block.term_ids.startswith("extracted")
    assert {(e.a, e.b) for e in block.comparisons} <= {("grlm", "text_knn"), ("text_knn", "grlm")}
    # the toy's catalog is shorter than a list: whatever is new can be found
    for figures in block.methods.values():
        assert figures["recall@20"].value == figures["valid_rate"].value == 1
        assert 0 < figures["mrr"].value < 1
    assert trained.catalog == before
    assert trained.version == 0


def test_given_term_ids_and_items_that_were_there(trained: GRLMForRecommendation) -> None:
    new = [i for i in CATALOG if i.item_id in HELD]
    tids = [("brand-new", "thing", str(n)) for n in range(len(new))]
    once = with_new_items(trained, new, tids)
    assert [once.catalog.term_id(i.item_id) for i in new] == tids
    again = with_new_items(once, new)  # the old ones do not stay
    assert not set(tids) & set(again.catalog.identifiers)
    assert {i.item_id for i in again.catalog} == {i.item_id for i in CATALOG}


def test_known_catalog_is_what_training_holds() -> None:
    known = known_catalog(CATALOG, SPLIT.train)
    assert {i.item_id for i in known} == {i for h in SPLIT.train for i in h.items}
    with pytest.raises(ValueError, match="none would be left"):
        known_catalog(CATALOG, [])


def test_the_newest_items_are_held_out_where_times_are_known(tmp_path: Path) -> None:
    from dataclasses import replace

    ids = [i.item_id for i in CATALOG]
    timed = [replace(h, timestamps=tuple(10 * ids.index(i) for i in h.items)) for h in toy_histories()]
    split = hold_out_items(timed, share=0.35)
    assert {c.target for c in (*split.validation, *split.test)} <= set(ids[-4:])
