"""What every identifier scheme must do; and that a scheme of another kind goes through the whole package."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toys import TERM_IDS, brute_force, toy_catalog, toy_histories, toy_model, toy_tokenizer

from grlm_hf import Catalog, GRLMForRecommendation, Item
from grlm_hf.data.interactions import History
from grlm_hf.data.repository import load_table
from grlm_hf.identifiers import SCHEMES, scheme_named
from grlm_hf.identifiers.scheme import Identifier, Scheme
from grlm_hf.identifiers.terms import TERMS
from grlm_hf.layout import CATALOG_FILE, CONFIG_FILE
from grlm_hf.stages.dataset import make_dataset
from grlm_hf.stages.model import make_checkpoint
from grlm_hf.tasks.mixture import make_mixture
from grlm_hf.tasks.prompts import prompt_hash
from grlm_hf.tokens import identifier_tokens, part_of_tokens
from grlm_hf.training.config import TrainConfig
from grlm_hf.training.scratch import ScratchConfig, make_model, train_tokenizer
from grlm_hf.training.sft import train


class ToyCodes:
    """One code a level: ``<a_3><b_0>``. People cannot read it, a new item's text does not give it, and it needs tokens of its own."""

    name, noun = "toy-codes", "code"
    readable = from_text = False

    def validate(self, parts: Iterable[str]) -> Identifier:
        codes = tuple(parts)
        if not codes or not all(code == f"<{chr(97 + level)}_{code[3:-1]}>" and code[3:-1].isdigit() for level, code in enumerate(codes)):
            raise ValueError(f"Found {codes}; expected one code a level, such as ('<a_3>', '<b_0>').")
        return codes

    def part(self, text: str) -> str:
        return ""

    def write(self, identifier: Identifier) -> str:
        return "".join(identifier)

    def parse(self, text: str) -> Identifier | None:
        codes = [f"{code}>" for code in text.split("\n")[0].split(">")[:-1]]
        try:
            return self.validate(codes)
        except ValueError:
            return None

    def line(self, identifier: Identifier) -> str:
        return self.write(identifier) + "\n"

    def spans(self, identifier: Identifier) -> list[tuple[int, int]]:
        ends = np.cumsum([len(code) for code in identifier]).tolist()
        return list(zip([0, *ends[:-1]], ends, strict=True))

    def added_tokens(self, identifiers: Iterable[Identifier]) -> list[str]:
        return sorted({code for identifier in identifiers for code in identifier})


CODES = ToyCodes()
CODE_IDS: list[Identifier] = [(f"<a_{n % 3}>", f"<b_{n // 3 % 4}>") for n in range(12)]
TITLE_IDS: list[Identifier] = [(f"{' '.join(t[:3]).title()}, No. {n // 2}",) for n, t in enumerate(TERM_IDS)]
SAMPLES = {
    "terms": TERM_IDS,
    "titles": TITLE_IDS,
    "toy-codes": CODE_IDS,
    "codes": [(f"a_{n % 3}", f"b_{n // 3 % 4}", *(["c_0"] if n % 2 else [])) for n in range(12)],
    "atomic": [(f"item_{n}",) for n in range(12)],
    "pieces": [(f"piece_{n}",) if n % 3 else (f"piece_{n}", "piece_20") for n in range(12)],
}
KINDS: list[Scheme] = [*SCHEMES.values(), CODES]


def tokenizer_for(scheme: Scheme) -> Any:
    identifiers = SAMPLES[scheme.name]
    tokenizer = train_tokenizer(
        [scheme.line(i) for i in identifiers] * 3 + ["user\nassistant\nNext items after:\nTerm ID of:\nTitle: "], 300
    )
    if added := scheme.added_tokens(identifiers):
        tokenizer.add_tokens(added)
    return tokenizer


def catalog_of(scheme: Scheme) -> Catalog:
    return Catalog([Item(f"i{20 - n}", f"Title {n}") for n in range(12)], SAMPLES[scheme.name], scheme)


@pytest.mark.parametrize("scheme", KINDS, ids=lambda s: s.name)
class TestEveryScheme:
    def test_written_and_parsed(self, scheme: Scheme) -> None:
        for identifier in SAMPLES[scheme.name]:
            assert scheme.validate(identifier) == identifier
            assert scheme.parse(scheme.write(identifier)) == identifier
            assert scheme.parse(scheme.line(identifier)) == identifier
            assert scheme.line(identifier) == scheme.write(identifier) + "\n"
            assert "\n" not in scheme.write(identifier)

    def test_no_line_begins_another(self, scheme: Scheme) -> None:
        lines = [scheme.line(i) for i in {*SAMPLES[scheme.name], *(i[:-1] for i in SAMPLES[scheme.name] if len(i) > 1)}]
        assert not [(a, b) for a in lines for b in lines if a != b and b.startswith(a)]

    def test_text_of_another_kind_is_no_identifier_of_this_one(self, scheme: Scheme) -> None:
        for other in KINDS:
            for identifier in SAMPLES[other.name]:
                parsed = scheme.parse(other.write(identifier))
                assert scheme is other or parsed != identifier

    def test_illegal_parts_are_refused(self, scheme: Scheme) -> None:
        for parts in ((), ("",), ("A B]", "["), ("<z",)):
            with pytest.raises(ValueError, match=r".{20}"):
                scheme.validate(parts)

    def test_spans_are_the_parts(self, scheme: Scheme) -> None:
        for identifier in SAMPLES[scheme.name]:
            line = scheme.line(identifier)
            assert tuple(line[begin:end] for begin, end in scheme.spans(identifier)) == identifier

    def test_every_token_belongs_to_one_part_in_order(self, scheme: Scheme) -> None:
        tokenizer = tokenizer_for(scheme)
        for identifier, path in zip(SAMPLES[scheme.name], identifier_tokens(tokenizer, scheme, SAMPLES[scheme.name]), strict=True):
            part = part_of_tokens(tokenizer, scheme, identifier)
            assert len(part) == len(path)
            assert (np.diff(part) >= 0).all()
            assert set(part.tolist()) == set(range(len(identifier)))
            spelled = [tokenizer.decode([t for t, p in zip(path, part, strict=True) if p == n]) for n in range(len(identifier))]
            assert all(text.strip(" []<>\n,") and word.strip("<>") in text for word, text in zip(identifier, spelled, strict=True))

    def test_added_tokens_are_single_and_ordinary(self, scheme: Scheme) -> None:
        tokenizer, added = tokenizer_for(scheme), scheme.added_tokens(SAMPLES[scheme.name])
        assert added == sorted(set(added))
        for token in added:
            assert len(tokenizer(token, add_special_tokens=False)["input_ids"]) == 1
            assert token not in tokenizer.all_special_tokens

    @pytest.mark.parametrize("objective", ["vocabulary", "trie"])
    def test_a_checkpoint_of_it_recommends_what_brute_force_does(self, scheme: Scheme, objective: str, tmp_path: Path) -> None:
        grlm = recommender(scheme, objective)
        history = ["i20", "i15"]
        want = brute_force(grlm, history)
        found = grlm.recommend(history, 12, exact=True)
        assert [r.log_prob for r in found] == pytest.approx(sorted((want[r.identifier] for r in found), reverse=True), abs=1e-4)
        assert len({r.item_id for r in found}) == 12
        said = grlm.explain(history, "i12")
        assert sum(t.log_prob for t in said.terms) == pytest.approx(want[grlm.catalog.identifier("i12")], abs=1e-4)
        grlm.save_pretrained(tmp_path / "checkpoint")
        again = GRLMForRecommendation.from_pretrained(tmp_path / "checkpoint")
        assert again.catalog == grlm.catalog
        assert again.catalog.scheme.name == scheme.name
        assert [r.item_id for r in again.recommend(history, 5)] == [r.item_id for r in grlm.recommend(history, 5)]

    def test_a_new_item_gets_an_identifier_from_its_text_or_must_be_given_one(self, scheme: Scheme) -> None:
        grlm, new = recommender(scheme), Item("new", "Blue camping lamp of steel")
        if scheme.from_text:
            assert grlm.add_items([new]) == 1
            assert scheme.validate(grlm.catalog.identifier("new"))
        else:
            with pytest.raises(ValueError, match=r"give the identifiers of new items|gets one with the next training"):
                grlm.add_items([new])


def recommender(scheme: Scheme, objective: str = "vocabulary") -> GRLMForRecommendation:
    from dataclasses import replace

    tokenizer = tokenizer_for(scheme)
    shape = ScratchConfig(hidden_size=32, intermediate_size=64, layers=2, heads=2, kv_heads=1, head_dim=32, max_positions=512)
    model = make_model(shape, tokenizer, 0)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(8.0)
    first = GRLMForRecommendation(model, tokenizer, catalog_of(scheme))
    return GRLMForRecommendation(model, tokenizer, first.catalog, replace(first.config, objective=objective))


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCHEMES, CODES.name, CODES)


def test_term_ids_are_written_as_ever(tmp_path: Path) -> None:
    """A catalog and a checkpoint of Term IDs name no scheme, so that older versions read them."""
    recommender(TERMS).save_pretrained(tmp_path / "terms")
    stated = json.loads((tmp_path / "terms" / CONFIG_FILE).read_text())
    assert (stated["schema"], "scheme" in stated) == (1, False)
    assert b"grlm_scheme" not in (tmp_path / "terms" / CATALOG_FILE).read_bytes()
    recommender(CODES).save_pretrained(tmp_path / "codes")
    stated = json.loads((tmp_path / "codes" / CONFIG_FILE).read_text())
    assert (stated["schema"], stated["scheme"]) == (2, "toy-codes")
    assert prompt_hash() == "8aa87385c6dcfd7e" != prompt_hash(scheme=CODES)


@pytest.mark.parametrize("objective", ["vocabulary", "trie"])
def test_a_model_from_scratch_learns_identifiers_with_tokens_of_their_own(objective: str, tmp_path: Path) -> None:
    catalog = catalog_of(CODES)
    ids = [item.item_id for item in catalog]
    mixture = make_mixture(catalog, [History(f"u{n}", (ids[n], ids[(n + 1) % 12], ids[(n + 2) % 12])) for n in range(12)]).dataset
    shape = ScratchConfig(hidden_size=32, intermediate_size=64, layers=1, heads=2, kv_heads=1, head_dim=16, vocab_size=300)
    config = TrainConfig(objective=objective, max_steps=3, batch_size=8, scratch=shape)
    grlm = train(catalog, mixture, tmp_path, config)
    assert grlm is not None
    assert grlm.config.scheme == "toy-codes"
    assert grlm.trie.depth == 3  # one token a code, and the newline
    assert len(grlm.recommend(ids[:2], 12)) == 12


def test_an_unknown_scheme_is_named_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recommender(CODES).save_pretrained(tmp_path / "codes")
    monkeypatch.delitem(SCHEMES, CODES.name)
    message = r"identifier scheme 'toy-codes'; this grlm-hf knows terms.*pip install -U grlm-hf"
    with pytest.raises(ValueError, match=message):
        GRLMForRecommendation.from_pretrained(tmp_path / "codes")
    with pytest.raises(ValueError, match=message):
        scheme_named("toy-codes", "x")


def test_parts_that_nobody_can_read_are_not_banned_and_not_made_from_text() -> None:
    grlm = recommender(CODES)
    with pytest.raises(ValueError, match=r"banned_terms names parts of identifiers, but a code has no words; name items by id"):
        grlm.recommend(["i20"], 3, banned_terms=["<a_1>"])
    with pytest.raises(ValueError, match=r"An item's text gives no code; give the identifiers of new items"):
        grlm.add_items([Item("new", "New")])
    assert grlm.add_items([Item("new", "New")], [("<a_2>", "<b_3>")]) == 1
    assert grlm.catalog.identifier("new") == ("<a_2>", "<b_3>")


def test_a_dataset_and_a_training_of_another_scheme(tmp_path: Path) -> None:
    catalog = catalog_of(CODES)
    catalog.save_pretrained(tmp_path / "catalog")
    rows = ({"user_id": h.user_id, "items": list(h.items)} for h in toy_histories())
    (tmp_path / "sequences.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    make_dataset(tmp_path, tmp_path / "catalog", tmp_path / "datasets")
    assert Catalog.from_pretrained(tmp_path / "datasets") == catalog
    assert load_table(tmp_path / "datasets", "term_ids", "train")["identifier"] == [list(i) for i in CODE_IDS]
    shape = ScratchConfig(vocab_size=300, hidden_size=32, intermediate_size=64, layers=1, heads=1, kv_heads=1, max_positions=256)
    config = TrainConfig(objective="trie", scratch=shape, max_steps=1, batch_size=4)
    made = make_checkpoint(tmp_path / "datasets", tmp_path / "checkpoint", config)
    assert made is not None
    assert made.config.scheme == CODES.name
    assert {r.identifier for r in made.recommend(["i20"], 12)} == set(CODE_IDS)


def test_a_catalog_of_another_scheme_is_refused() -> None:
    codes, terms = recommender(CODES), recommender(TERMS)
    with pytest.raises(ValueError, match="writes identifiers of the scheme 'toy-codes', its catalog has 'terms'"):
        GRLMForRecommendation(codes.model, codes.tokenizer, terms.catalog, codes.config)
    with pytest.raises(ValueError, match="has the identifier scheme 'terms'; this model writes 'toy-codes'"):
        codes.shelf.change(lambda _: terms.catalog)
    assert codes.version == 0


@given(st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=6))
def test_any_text_that_parses_as_a_term_id_is_written_and_parsed_alike(texts: list[str]) -> None:
    found = TERMS.parse("[" + ", ".join(texts) + "]")
    if found:
        assert TERMS.parse(TERMS.write(TERMS.validate(found))) == found


def test_toys_are_of_the_default_scheme() -> None:
    assert toy_catalog().scheme is TERMS
    assert GRLMForRecommendation(toy_model(), toy_tokenizer(), toy_catalog()).config.scheme == "terms"


def test_semantic_ids_from_a_data_folder_to_a_living_checkpoint(tmp_path: Path) -> None:
    """The whole path of Semantic IDs: codes from texts, a model that writes them, a new item by its text, and all of it saved."""
    from grlm_hf.data.sample import write_sample
    from grlm_hf.recipe import Recipe, override
    from grlm_hf.stages import make_identifiers

    write_sample(tmp_path / "data")
    settings = ["identifier.kind=codes", "identifier.codes.codes=[16]", "identifier.codes.behaviour=0.5"]
    recipe = override(Recipe(), settings)
    catalog = make_identifiers(tmp_path / "data", tmp_path / "catalog", recipe)
    make_dataset(tmp_path / "data", tmp_path / "catalog", tmp_path / "datasets")
    shape = ScratchConfig(vocab_size=300, hidden_size=32, intermediate_size=64, layers=1, heads=1, kv_heads=1, max_positions=512)
    config = TrainConfig(objective="trie", scratch=shape, max_steps=1, batch_size=4)
    grlm = make_checkpoint(tmp_path / "datasets", tmp_path / "checkpoint", config)
    assert grlm is not None
    assert grlm.config.codebook == catalog.codebook_hash != ""
    grlm = GRLMForRecommendation.from_pretrained(tmp_path / "checkpoint")
    first = catalog.items[0]
    before = dict(zip([i.item_id for i in catalog], catalog.item_identifiers, strict=True))
    grlm.add_items([Item(f"n{n}", first.title, first.brand, first.categories, first.description) for n in range(60)])  # to be told apart
    assert {i: grlm.catalog.identifier(i) for i in before} == before
    assert len(grlm.catalog.identifiers) == len(grlm.catalog)
    assert {r.item_id for r in grlm.recommend([first.item_id], len(grlm.catalog))} == {i.item_id for i in grlm.catalog}
    grlm.save_pretrained(tmp_path / "grown")
    again = GRLMForRecommendation.from_pretrained(tmp_path / "grown")
    assert again.catalog == grlm.catalog
    with pytest.raises(ValueError, match=r"1 symbols that the model has not learnt, such as <a_99>"):
        again.add_items([Item("x", "X")], [("a_99",)])
    other = make_identifiers(tmp_path / "data", tmp_path / "other", override(recipe, ["identifier.codes.seed=1"]))
    for change in (lambda: again.with_catalog(other), lambda: again.shelf.change(lambda _: other)):
        with pytest.raises(ValueError, match=r"codes of the codebook .* equal codes\s+mean other items|equal codes mean other items"):
            change()


def test_a_temperature_for_each_level_varies_where_it_is_high() -> None:
    grlm = recommender(SCHEMES["codes"], "trie")
    draws = {t: [grlm.sample(["i20"], 1, temperature=t, seed=s)[0].identifier for s in range(60)] for t in ((50.0, 0.02), (0.02, 50.0))}
    first = {t: len({i[0] for i in found}) for t, found in draws.items()}
    assert first[50.0, 0.02] == 3
    assert first[0.02, 50.0] == 1
    most = max(draws[0.02, 50.0], key=draws[0.02, 50.0].count)[0]
    assert len({i for i in draws[0.02, 50.0] if i[0] == most}) == 4  # all second codes behind it
    assert len({i[1] for i in draws[50.0, 0.02] if i[0] == most}) == 1
    alike = [grlm.sample(["i20"], 3, temperature=t, seed=1) for t in (0.7, [0.7], [0.7, 0.7, 0.7])]
    assert alike[0] == alike[1] == alike[2]
    with pytest.raises(ValueError, match="or one for each token of an identifier"):
        grlm.sample(["i20"], 1, temperature=[1.0, 0.0])
