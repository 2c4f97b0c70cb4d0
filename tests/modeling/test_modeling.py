from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import brute_force, close, some_histories, toy_catalog, toy_grlm, toy_model, toy_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from grlm_hf import Catalog, GRLMForRecommendation, Item, TrieConstrainedLogitsProcessor
from grlm_hf.training.scratch import train_tokenizer

IDS = [i.item_id for i in toy_catalog()]


@pytest.mark.parametrize("objective", ["vocabulary", "trie"])
@pytest.mark.parametrize("seed", [0, 1])
def test_recommend_equals_brute_force(objective: str, seed: int) -> None:
    grlm = toy_grlm(objective, seed)
    histories = some_histories(6)  # longer than max_history, too
    for history, got in zip(histories, grlm.recommend(histories, len(IDS), batch_size=5), strict=True):
        scores = brute_force(grlm, history)
        want = [i.item_id for t in sorted(scores, key=lambda t: -scores[t]) for i in grlm.catalog.items_of(t)]
        assert [r.item_id for r in got] == want
        assert all(close(r.score, scores[r.term_id]) for r in got)
        assert all(r.title == grlm.catalog[r.item_id].title for r in got)


def test_trie_normalised_probabilities_sum_to_one() -> None:
    grlm = toy_grlm("trie")
    by_tid = {r.term_id: r.score for r in grlm.recommend(["i20"], len(IDS))}
    assert sum(torch.tensor(s).exp().item() for s in by_tid.values()) == pytest.approx(1, abs=1e-4)


def test_seen_items_are_left_out_and_nothing_else() -> None:
    grlm = toy_grlm()
    for history in some_histories(4):
        everything = [r.item_id for r in grlm.recommend(history, len(IDS))]
        unseen = [i for i in everything if i not in history]
        for k in (1, 3, len(IDS)):
            assert [r.item_id for r in grlm.recommend(history, k, exclude_seen=True)] == unseen[:k]
    assert grlm.recommend(IDS, 5, exclude_seen=True) == []  # all seen: an empty list, not an error


def test_batches_do_not_change_answers() -> None:
    grlm = toy_grlm()
    histories = some_histories(4)
    alone = [grlm.recommend(h, 5) for h in histories]
    for batch_size in (1, 3, 64):
        for one, other in zip(alone, grlm.recommend(histories, 5, batch_size=batch_size), strict=True):
            assert [r.item_id for r in one] == [r.item_id for r in other]
            assert all(close(a.score, b.score) for a, b in zip(one, other, strict=True))


def test_an_answer_does_not_depend_on_who_shares_the_batch() -> None:
    grlm = toy_grlm("trie", seed=2)
    for num_beams in (2, 3):
        alone = grlm.recommend(["i20"], 2, exclude_seen=True, num_beams=num_beams)
        together = grlm.recommend([["i20"], IDS[:10], IDS[2:5]], 2, exclude_seen=True, num_beams=num_beams)[0]
        assert [r.item_id for r in alone] == [r.item_id for r in together]


@pytest.mark.parametrize("objective", ["vocabulary", "trie"])
@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_tiny_catalogs(objective: str, n: int) -> None:
    tokenizer = toy_tokenizer()
    items = [Item(f"i{i}", f"Title {i}") for i in range(n)]
    catalog = Catalog(items, [(word,) for word in ("mug", "tent", "lamp", "stove", "steel")[:n]])
    config = dataclasses.replace(toy_grlm().config, objective=objective)
    grlm = GRLMForRecommendation(toy_model(), tokenizer, catalog, config)
    scores = brute_force(grlm, ["i0"])
    got = grlm.recommend(["i0"], n)
    assert [r.term_id for r in got] == sorted(scores, key=lambda t: -scores[t])
    assert all(close(r.score, scores[r.term_id]) for r in got)


def test_a_model_that_does_not_see_the_whole_context_is_refused() -> None:
    grlm = toy_grlm()
    grlm.model.config.layer_types = ["full_attention", "sliding_attention"]
    with pytest.raises(ValueError, match="do not attend to the whole context"):
        grlm.recommend(["i20"], 2)


@pytest.mark.parametrize(
    ("history", "options", "message"),
    [
        ([], {}, "history is empty"),
        ([["i20"], []], {}, "history is empty"),
        (["i20", "nope"], {}, "Item 'nope' is not in the catalog of 12 items"),
        ("i20", {}, "expected a list of item ids"),
        (["i20"], {"k": 0}, "k=0; expected 1 to 12"),
        (["i20"], {"k": 13}, "k=13; expected 1 to 12"),
        (["i20"], {"num_beams": 0}, "num_beams=0"),
        (["i20"], {"k": 9, "num_beams": 2}, "num_beams=2; expected 9"),
        ([1, 2], {}, "expected item ids, which are strings"),
        (["i20"], {"batch_size": 0}, "batch_size=0"),
    ],
)
def test_bad_calls(history: object, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        toy_grlm().recommend(history, **options)


# --- checkpoints -------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "checkpoint"
    toy_grlm("trie").save_pretrained(folder)
    return folder


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def test_round_trip(checkpoint: Path) -> None:
    saved, loaded = toy_grlm("trie"), GRLMForRecommendation.from_pretrained(checkpoint)
    assert loaded.catalog == saved.catalog
    assert loaded.config == saved.config
    for a, b in zip(loaded.recommend(IDS[:3], 12), saved.recommend(IDS[:3], 12), strict=True):
        assert a.item_id == b.item_id
        assert close(a.score, b.score)
    assert not [p.name for p in checkpoint.parent.iterdir() if p != checkpoint]  # no temporary leftovers


def test_plain_transformers_gives_the_same_items_and_scores(checkpoint: Path) -> None:
    lm, tokenizer = AutoModelForCausalLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    grlm = GRLMForRecommendation.from_pretrained(checkpoint)
    catalog = Catalog.from_pretrained(checkpoint)
    history = IDS[:3]
    prompt = grlm.prompt_tokens(history)
    processor = TrieConstrainedLogitsProcessor(catalog.trie(tokenizer), objective=grlm.config.objective)
    out = lm.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        num_beams=11,
        num_return_sequences=11,
        max_new_tokens=grlm.trie.depth + 1,
        length_penalty=0.0,
        logits_processor=[processor],
        return_dict_in_generate=True,
        output_scores=True,
    )
    texts = tokenizer.batch_decode(out.sequences[:, prompt.shape[1] :], skip_special_tokens=True)
    want = {r.term_id: r.score for r in grlm.recommend(history, 12)}
    assert [t.strip("[]\n").split(", ") for t in texts] == [list(t) for t in want]
    assert all(close(a, b) for a, b in zip(out.sequences_scores.tolist(), want.values(), strict=True))


def test_pushing_or_saving_twice_is_the_same(copy: Path) -> None:
    before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    GRLMForRecommendation.from_pretrained(copy).save_pretrained(copy)
    assert {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()} == before
    assert len(before) > 8


def test_a_checkpoint_without_its_catalog(copy: Path) -> None:
    (copy / "catalog.parquet").unlink()
    with pytest.raises(ValueError, match=r"holds no catalog\.parquet: it is not a GRLM checkpoint"):
        GRLMForRecommendation.from_pretrained(copy)


def test_a_checkpoint_of_a_newer_version(copy: Path) -> None:
    config = json.loads((copy / "grlm_config.json").read_text())
    (copy / "grlm_config.json").write_text(json.dumps(config | {"schema": 99, "news": 1}))
    with pytest.raises(ValueError, match=r"config schema 99; this grlm-hf reads up to 5"):
        GRLMForRecommendation.from_pretrained(copy)
    (copy / "grlm_config.json").write_text("{")
    with pytest.raises(ValueError, match="not a readable JSON"):
        GRLMForRecommendation.from_pretrained(copy)


def test_another_tokenizer_is_refused(copy: Path) -> None:
    train_tokenizer(["quite other words\n"] * 9, 380).save_pretrained(copy)
    with pytest.raises(ValueError, match="is not the one that this checkpoint was trained with"):
        GRLMForRecommendation.from_pretrained(copy)


def test_other_prompts_or_objectives_are_refused() -> None:
    config = toy_grlm().config
    for change, message in (({"prompt_hash": "0"}, "other prompts"), ({"objective": "words"}, "objective is 'words'")):
        with pytest.raises(ValueError, match=message):
            GRLMForRecommendation(toy_model(), toy_tokenizer(), toy_catalog(), dataclasses.replace(config, **change))


def test_a_model_smaller_than_its_tokenizer_is_refused() -> None:
    model = toy_model()
    model.resize_token_embeddings(100)
    with pytest.raises(ValueError, match="do not belong together"):
        GRLMForRecommendation(model, toy_tokenizer(), toy_catalog())


def test_no_such_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="neither a folder here nor a Hub id"):
        GRLMForRecommendation.from_pretrained(tmp_path / "gone")


def test_a_checkpoint_with_a_broken_trie_is_refused(copy: Path) -> None:
    data = bytearray((copy / "catalog.trie").read_bytes())
    (copy / "catalog.trie").write_bytes(data[:-7])
    with pytest.raises(ValueError, match="not a readable trie file"):
        GRLMForRecommendation.from_pretrained(copy)
    data[-3] ^= 1
    (copy / "catalog.trie").write_bytes(data)
    with pytest.raises(ValueError, match="its checksum does not match"):
        GRLMForRecommendation.from_pretrained(copy)


def test_a_trie_of_another_catalog_is_made_anew_and_one_of_another_tokenizer_refused(copy: Path) -> None:
    grlm = toy_grlm("trie")
    grlm.catalog.remove(["i20"]).trie(grlm.tokenizer).save(copy / "catalog.trie", "another")
    assert len(GRLMForRecommendation.from_pretrained(copy).trie) == len(grlm.trie)
    grlm.catalog.trie(toy_tokenizer(380)).save(copy / "catalog.trie", grlm.catalog.identifiers_hash)
    with pytest.raises(ValueError, match="The trie was built with another tokenizer"):
        GRLMForRecommendation.from_pretrained(copy)


def test_samples_are_distinct_allowed_seeded_and_scored() -> None:
    grlm = toy_grlm("trie")
    ids = [i.item_id for i in toy_catalog()]
    scores = {r.item_id: r.score for r in grlm.recommend(ids[:2], len(ids), exact=True)}
    everything = grlm.sample(ids[:2], len(ids), seed=1)
    assert [r.item_id for r in everything]
    assert {r.item_id: pytest.approx(r.score) for r in everything} == scores
    some = grlm.sample([ids[:2], ids[3:5]], 4, seed=3, exclude_seen=True, exclude=ids[9:], temperature=2.0)
    assert some == grlm.sample([ids[:2], ids[3:5]], 4, seed=3, exclude_seen=True, exclude=ids[9:], temperature=2.0)
    for history, drawn in zip((ids[:2], ids[3:5]), some, strict=True):
        found = [r.item_id for r in drawn]
        assert len(set(found)) == 4
        assert not set(found) & {*history, *ids[9:]}
        assert [r.score for r in drawn] == sorted((r.score for r in drawn), reverse=True)


def test_one_sample_follows_the_probabilities() -> None:
    grlm = toy_grlm("trie")
    ids = [i.item_id for i in toy_catalog()]
    expected = {r.term_id: math.exp(r.score) for r in grlm.recommend(ids[:1], len(ids), exact=True)}
    n = 600
    drawn = Counter(one[0].term_id for one in grlm.sample([ids[:1]] * n, 1, seed=0))
    for term_id, p in expected.items():  # four standard deviations
        assert abs(drawn[term_id] - n * p) <= 4 * math.sqrt(n * p * (1 - p)) + 1


@pytest.mark.parametrize(("asked", "said"), [({"n": 0}, "n=0"), ({"n": 99}, "size of the catalog"), ({"temperature": 0.0}, "temperature")])
def test_impossible_samples_are_refused(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        toy_grlm().sample(["i20"], **asked)
