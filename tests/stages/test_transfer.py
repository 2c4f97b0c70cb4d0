"""A checkpoint of one shop in another shop: searched without training, evaluated, and trained on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from toys import brute_force, close, toy_catalog, toy_grlm, toy_histories

from grlm_hf import Catalog, GRLMForRecommendation, Item
from grlm_hf.data.interactions import History
from grlm_hf.files import read_json
from grlm_hf.identifiers import TITLES
from grlm_hf.priors.fused import Fused
from grlm_hf.priors.popularity import Popularity
from grlm_hf.recipe import DataConfig, EvaluateConfig
from grlm_hf.stages.dataset import make_dataset
from grlm_hf.stages.model import make_checkpoint, make_report
from grlm_hf.tasks.config import MixtureConfig
from grlm_hf.tokens import tokenizer_hash
from grlm_hf.training.config import TrainConfig

pytestmark = pytest.mark.usefixtures("blank_pictures")
WORDS = ["book", "crime", "novel", "audio", "paperback", "signed"]
OTHER = Catalog([Item(f"b{n}", f"Book {n}") for n in range(6)], [(word, WORDS[n - 1], "tent") for n, word in enumerate(WORDS)])
READERS = [History(f"r{u}", tuple(f"b{(u + s * (1 + u % 2)) % 6}" for s in range(4))) for u in range(12)]


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("books")
    OTHER.save_pretrained(folder / "catalog")
    (folder / "sequences.jsonl").write_text("".join(json.dumps({"user_id": h.user_id, "items": h.items}) + "\n" for h in READERS))
    make_dataset(folder, folder / "catalog", folder / "d", MixtureConfig(max_history=3), DataConfig())
    return folder / "d"


def test_another_shops_catalog_is_searched_exactly() -> None:
    grlm = toy_grlm("trie", own_prior=True)
    grlm.prior = Fused({"popularity": (Popularity.fit([i.item_id for i in grlm.catalog], toy_histories()), 1.0)}, ())
    other = grlm.with_catalog(OTHER)
    scores = brute_force(other, ["b2", "b4"])
    answer = other.recommend(["b2", "b4"], 6, exact=True)
    assert [r.term_id for r in answer] == sorted(scores, key=scores.__getitem__, reverse=True)
    assert all(close(r.log_prob, scores[r.term_id]) for r in answer)
    assert other.prior is None
    assert not other.config.own_prior
    assert {r.item_id for r in other.recommend(["b2"], 6, decode=False)} == {i.item_id for i in OTHER}
    assert grlm.catalog == toy_catalog()  # and the first shop goes on
    assert grlm.prior is not None


def test_another_shop_is_refused_where_the_model_cannot_write_its_identifiers(monkeypatch: pytest.MonkeyPatch) -> None:
    grlm = toy_grlm()
    scheme = type(OTHER.scheme)
    monkeypatch.setattr(scheme, "added_tokens", lambda self, identifiers: ["<c1>", "<c2>"])
    with pytest.raises(ValueError, match=r"2 tokens that the tokenizer lacks \['<c1>', '<c2>'\].*Train on"):
        grlm.with_catalog(OTHER)
    monkeypatch.undo()
    titles = Catalog([Item("b0", "A book")], [("A book",)], TITLES)
    with pytest.raises(ValueError, match=r"the scheme 'titles'.*expected the scheme 'terms'"):
        grlm.with_catalog(titles)
    long = Catalog([Item("long", "Long")], [tuple(f"word{n}" for n in range(200))])
    with pytest.raises(ValueError, match=r"leaves|takes"):
        grlm.with_catalog(long)


def test_a_checkpoint_is_evaluated_on_another_shop(books: Path, tmp_path: Path) -> None:
    toy_grlm("trie").save_pretrained(tmp_path / "checkpoint")
    before = sorted(p.name for p in (tmp_path / "checkpoint").rglob("*"))
    with pytest.raises(ValueError, match=r"none of the items that .* asks for, such as 'b.'.*--transfer"):
        make_report(tmp_path / "checkpoint", books, tmp_path / "report.json", EvaluateConfig(resamples=10))
    report = make_report(tmp_path / "checkpoint", books, tmp_path / "report.json", EvaluateConfig(resamples=10), transfer=True)
    assert (report.protocol.candidates, report.protocol.users) == (6, 12)
    other, hits = GRLMForRecommendation.from_pretrained(tmp_path / "checkpoint").with_catalog(OTHER), 0
    for h in READERS:
        hits += other.recommend(h.items[:-1], 1, exclude_seen=True)[0].item_id == h.items[-1]
    assert report.methods["grlm"]["recall@1"].value == hits / 12
    assert sorted(p.name for p in (tmp_path / "checkpoint").rglob("*")) == before  # its card is of its own shop


def test_a_training_goes_on_in_another_shop(books: Path, tmp_path: Path) -> None:
    toy_grlm("trie").save_pretrained(tmp_path / "one")
    start = GRLMForRecommendation.from_pretrained(tmp_path / "one")
    config = TrainConfig(model=str(tmp_path / "one"), objective="trie", max_steps=2, batch_size=8, learning_rate=1e-3)
    made = make_checkpoint(books, tmp_path / "two", config)
    assert made is not None
    assert tokenizer_hash(made.tokenizer) == tokenizer_hash(start.tokenizer)
    assert made.catalog == OTHER
    assert len(made.tokenizer("[paperback,")["input_ids"]) > 3  # a word of the new shop is several tokens
    weights = [g.model.get_input_embeddings().weight for g in (start, made)]
    assert weights[0].shape == weights[1].shape
    step = (weights[0] - weights[1]).abs().max()
    assert 0 < step < 0.01  # it began where the first shop ended
    assert read_json(tmp_path / "two" / "grlm_config.json") == read_json(tmp_path / "one" / "grlm_config.json") | {"max_history": 3}
    assert replace(made.config, max_history=4) == start.config
