"""Every prompt in text and in tokens: one rendering of an item, a title that cannot break the form, whole items within a budget."""

from __future__ import annotations

import dataclasses
import functools
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import TERM_IDS, brute_force, close, some_histories, toy_catalog, toy_grlm, toy_tokenizer

from grlm_hf import Catalog, GRLMForRecommendation, Item
from grlm_hf.identifiers.terms import TERMS, render
from grlm_hf.layout import HISTORIES
from grlm_hf.tasks import prompts
from grlm_hf.tasks.encoding import history_tokens, prompt_tokens
from grlm_hf.tasks.prompts import (
    history_item,
    internalise_request,
    next_item_turns,
    one_line,
    prompt_hash,
    steered_request,
    templates_hash,
    title_line,
    written_title,
)
from grlm_hf.tokens import identifier_tokens, line_tokens, without_specials

CATALOG = toy_catalog()
QWEN_SPLIT = (  # of Qwen 2 and 3: punctuation takes the newlines behind it
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
HOSTILE = (
    "\n", "\r\n", "\u2028", "\x85", "[", "]", "[tent, camping]\n", "<|im_end|>", "<|endoftext|>", "</s>", "🏕️", "مرحبا", ".", ")", "\u0301",
)  # fmt: skip
nasty = st.lists(st.one_of(st.text(max_size=8), st.sampled_from(HOSTILE)), max_size=6).map("".join)


@functools.cache
def qwen_like() -> Any:
    """A BPE tokenizer with Qwen's split and normalizer, in which a bracket and its newline are one token."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=special, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    bpe.train_from_iterator([TERMS.line(t) + title_line(i) for t, i in zip(TERM_IDS, CATALOG, strict=True)] * 9, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=toy_tokenizer().chat_template
    )


def tokenizers() -> list[Any]:
    return [toy_tokenizer(), qwen_like()]


def with_titles(titles: list[str]) -> Catalog:
    return Catalog([Item(f"i{n}", title or "?") for n, title in enumerate(titles)], TERM_IDS[: len(titles)])


def test_the_qwen_like_tokenizer_merges_brackets_with_newlines() -> None:
    line = qwen_like()("[tent]\nTitle", add_special_tokens=False)["input_ids"]
    assert "]\n" in map(qwen_like().decode, line)


# --- text --------------------------------------------------------------------------------------------------------------------------


@given(nasty)
def test_a_title_is_one_line_that_is_no_identifier(title: str) -> None:
    line = title_line(Item("i", title or "?"))
    assert line.splitlines() == [line[:-1]]
    assert line[:-1].strip() == line[:-1] != ""
    assert not set(line) & set("[]<>")
    assert line[:-1].encode()  # no half of a character
    assert all(special not in line for special in toy_tokenizer().all_special_tokens)


@given(st.lists(st.text("ab é水", min_size=1, max_size=30), max_size=60).map(" ".join), st.integers(1, 80))
def test_long_text_is_cut_at_a_word(text: str, limit: int) -> None:
    whole, cut = " ".join(text.split()), one_line(text, limit)
    assert len(cut) <= limit
    assert whole.startswith(cut)
    if cut != whole:
        head = whole[: limit + 1]
        # as much as fits: the border that follows would be beyond the limit; a word longer than the limit is cut
        assert whole[len(cut)] == " " and " " not in head[len(cut) + 1 :] if " " in head else len(cut) == limit


def test_titles_of_ten_thousand_characters() -> None:
    item = Item("i", "words " * 2000, description="")
    assert len(written_title(item)) <= 200
    assert written_title(item).endswith("words")
    assert len(internalise_request(item)) < 1100
    assert internalise_request(item).endswith("words")
    assert len(written_title(Item("i", "x" * 10_000))) == 200


def test_turns() -> None:
    shown = {h: [history_item(TERMS.line(CATALOG.term_ids[p]), CATALOG.items[p], h) for p in (0, 8)] for h in HISTORIES}
    assert next_item_turns(shown["term_ids"]) == (
        "Next items after:\n[tent, camping, light, two, green]",
        "[lamp, desk, led, long-lasting, steel]\n",
    )
    assert next_item_turns(shown["both"], "both") == (
        "Next items after:\n[tent, camping, light, two, green]\nTitle 0 tent",
        "[lamp, desk, led, long-lasting, steel]\nTitle 8 lamp\n",
    )
    assert next_item_turns(shown["titles"], "titles") == ("Next items after:\nTitle 0 tent\nTitle 8 lamp", "")
    assert steered_request(shown["both"], ["red"], ["gas"]) == f"Next item after:\n{''.join(shown['both'])}Wish: more red, no gas"


def test_what_is_refused() -> None:
    for history in ("ids", "", None):
        with pytest.raises(ValueError, match=r"expected one of \('term_ids', 'both', 'titles'\)"):
            history_item(TERMS.line(CATALOG.term_ids[0]), CATALOG.items[0], history)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="history is empty"):
        next_item_turns([])
    with pytest.raises(ValueError, match="expected at least one item and one term"):
        steered_request(["[a]\n"])


def test_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert prompt_hash() == "8aa87385c6dcfd7e"  # that of the checkpoints before there were other forms of a history
    assert len({*map(prompt_hash, HISTORIES)}) == 3
    before = templates_hash()
    for name in ("_TITLE_OF", "_COLLABORATIVE", "_QUERY", "_STEERED"):
        with monkeypatch.context() as patch:
            patch.setattr(prompts, name, getattr(prompts, name) + "!")
            assert templates_hash() != before
            assert prompt_hash() == "8aa87385c6dcfd7e"  # recommending does not read them
    for name in ("_NEXT_ITEM", "_INTERNALISE"):
        with monkeypatch.context() as patch:
            patch.setattr(prompts, name, getattr(prompts, name) + "!")
            assert templates_hash() != before
            assert prompt_hash() != "8aa87385c6dcfd7e"


# --- tokens ------------------------------------------------------------------------------------------------------------------------


def written_out(tokenizer: Any, catalog: Catalog, positions: list[int], history: str) -> list[int]:
    """The oracle: the whole prompt as one text, encoded at once."""
    user, begun = next_item_turns([history_item(TERMS.line(catalog.term_ids[p]), catalog.items[p], history) for p in positions], history)
    user, begun = without_specials(tokenizer, [user, begun])
    text = tokenizer.apply_chat_template([{"role": "user", "content": user}], tokenize=False, add_generation_prompt=True) + begun
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@settings(deadline=None)
@given(st.lists(nasty, min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_prompt_tokens_are_those_of_the_whole_text(titles: list[str], rng: random.Random) -> None:
    catalog = with_titles(titles)
    positions = [[rng.randrange(len(catalog)) for _ in range(rng.randint(1, 6))] for _ in range(3)]
    for tokenizer in tokenizers():
        paths = identifier_tokens(tokenizer, TERMS, catalog.term_ids)
        for history in HISTORIES:
            got = history_tokens(tokenizer, paths, positions, catalog, history=history)
            assert [p.tolist() for p in got] == [written_out(tokenizer, catalog, p, history) for p in positions]


@settings(deadline=None)
@given(nasty)
def test_an_identifier_is_its_path_beside_any_title(title: str) -> None:
    item = Item("i", title or "?")
    for tokenizer in tokenizers():
        (line,) = without_specials(tokenizer, [title_line(item)])
        (title_path,) = line_tokens(tokenizer, [line])
        for tid, path in zip(TERM_IDS, identifier_tokens(tokenizer, TERMS, TERM_IDS), strict=True):
            ids = tokenizer(TERMS.line(tid) + line + TERMS.line(tid), add_special_tokens=False)["input_ids"]
            assert ids == [*path, *title_path, *path]


@pytest.mark.parametrize("history", HISTORIES)
def test_a_budget_drops_the_oldest_items_whole(history: str) -> None:
    rng = random.Random(0)
    for tokenizer in tokenizers():
        paths = identifier_tokens(tokenizer, TERMS, CATALOG.term_ids)

        def made(positions: list[int], tokenizer: Any = tokenizer) -> list[int]:
            return written_out(tokenizer, CATALOG, positions, history)

        for _ in range(25):
            positions = [rng.randrange(len(CATALOG)) for _ in range(rng.randint(1, 8))]
            for budget in {rng.randint(20, 200), len(made(positions)), len(made(positions)) - 1}:
                # brute force: the longest suffix that fits
                fits = [s for s in (positions[i:] for i in range(len(positions))) if len(made(s)) <= budget]

                (got,) = history_tokens(tokenizer, paths, [positions], CATALOG, history=history, max_tokens=budget)
                assert got.tolist() == made((fits or [positions[-1:]])[0])  # one item always stays


def test_conversations_are_those_of_the_template() -> None:
    tokenizer = toy_tokenizer()
    talk = [{"role": "system", "content": "s"}, {"role": "user", "content": "a<|im_end|>"}, {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c"}]  # fmt: skip
    short = [{"role": "user", "content": "x"}]
    clean = [{**m, "content": m["content"].replace("<|im_end|>", " ")} for m in talk]
    want = [tokenizer.apply_chat_template(m, add_generation_prompt=True, return_dict=False) for m in (short, clean)]
    assert prompt_tokens(tokenizer, [short, talk]) == want


# --- a recommender -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("history", ["both", "titles"])
@pytest.mark.parametrize("objective", ["vocabulary", "trie"])
def test_recommend_equals_brute_force_in_every_form(history: str, objective: str) -> None:
    grlm = toy_grlm(objective, history=history)
    asked = some_histories(6)[::5]
    assert any(len(h) > grlm.config.max_history for h in asked)
    for items, got in zip(asked, grlm.recommend(asked, len(CATALOG)), strict=True):
        shown = [CATALOG.position(i) for i in items][-grlm.config.max_history :]
        assert grlm.prompt_tokens(items)[0].tolist() == written_out(grlm.tokenizer, CATALOG, shown, history)
        scores = brute_force(grlm, items)
        assert all(close(r.score, scores[r.term_id]) for r in got)
        assert [r.score for r in got] == sorted((r.score for r in got), reverse=True)


@pytest.mark.parametrize("limit", ["max_tokens", "the model's positions"])
@pytest.mark.parametrize("history", HISTORIES)
def test_a_long_history_leaves_room_for_the_answer(history: str, limit: str) -> None:
    whole = toy_grlm(history=history)
    ids = [i.item_id for i in CATALOG][:4]
    room = whole.prompt_tokens(ids[1:]).shape[1]
    n = room + whole.trie.depth + 1
    grlm = toy_grlm(history=history, max_tokens=n) if limit == "max_tokens" else toy_grlm(history=history)
    if limit != "max_tokens":
        grlm.model.config.max_position_embeddings = n
    assert grlm.prompt_tokens(ids).tolist() == whole.prompt_tokens(ids[1:]).tolist()
    assert [r.item_id for r in grlm.recommend(ids, 5)] == [r.item_id for r in whole.recommend(ids[1:], 5)]
    one = toy_grlm(history=history, max_tokens=5)  # a budget of training; the last item is read all the same
    assert [r.item_id for r in one.recommend(ids, 5)] == [r.item_id for r in whole.recommend(ids[-1:], 5)]
    one.model.config.max_position_embeddings = whole.trie.depth + 5
    with pytest.raises(ValueError, match=r"A prompt with one item has \d+ tokens, its answer up to \d+; the model takes \d+ in all"):
        one.recommend(ids, 5)


def test_checkpoints_state_their_form_and_those_before_it_load(tmp_path: Path) -> None:
    grlm = toy_grlm(history="both", max_tokens=300)
    grlm.save_pretrained(tmp_path / "new")
    loaded = GRLMForRecommendation.from_pretrained(tmp_path / "new")
    assert (loaded.config.history, loaded.config.max_tokens) == ("both", 300)
    assert loaded.prompt_tokens(["i20", "i19"]).tolist() == grlm.prompt_tokens(["i20", "i19"]).tolist()

    toy_grlm().save_pretrained(tmp_path / "old")
    config = json.loads((tmp_path / "old" / "grlm_config.json").read_text())
    del config["history"], config["max_tokens"]
    (tmp_path / "old" / "grlm_config.json").write_text(json.dumps(config))
    assert GRLMForRecommendation.from_pretrained(tmp_path / "old").config == toy_grlm().config
    del config["objective"]
    (tmp_path / "old" / "grlm_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"expected.*objective"):
        GRLMForRecommendation.from_pretrained(tmp_path / "old")


def test_a_form_and_its_hash_belong_together() -> None:
    grlm = toy_grlm()
    for change, message in (({"history": "both"}, "other prompts"), ({"history": "ids"}, "history is 'ids'")):
        with pytest.raises(ValueError, match=message):
            GRLMForRecommendation(grlm.model, grlm.tokenizer, CATALOG, dataclasses.replace(grlm.config, **change))


def test_items_added_later_stand_in_histories_with_their_titles() -> None:
    grlm = toy_grlm(history="both")
    grlm.add_items([Item("new", "A [new] <|im_end|> tent")], [("tent", "new")])
    text = grlm.tokenizer.decode(grlm.prompt_tokens(["i20", "new"])[0])
    assert text.endswith(f"{render(('tent', 'new'))}\nA (new) |im_end| tent\n")
