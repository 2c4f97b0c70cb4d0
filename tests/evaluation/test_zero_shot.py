"""A chat model without training as a method, and the checkpoint as a second stage."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toys import TERM_IDS, toy_catalog, toy_grlm, toy_histories, toy_model, toy_tokenizer

from grlm_hf import Catalog
from grlm_hf.cli.app import app
from grlm_hf.evaluation.config import EvaluateConfig, RerankConfig, ZeroShotConfig
from grlm_hf.evaluation.generative import reranked, second_stage
from grlm_hf.evaluation.rankings import Rankings
from grlm_hf.evaluation.schema import load_report
from grlm_hf.evaluation.verdict import explained, verdict
from grlm_hf.evaluation.zero_shot import chat_model
from grlm_hf.identifiers.titles import TITLES, written_title
from grlm_hf.recipe import DataConfig, load_recipe
from grlm_hf.stages.dataset import make_dataset
from grlm_hf.stages.model import make_report
from grlm_hf.tasks.config import MixtureConfig

IDS = [i.item_id for i in toy_catalog()]
TWINS = Catalog([replace(i, title="The same tent") if n < 2 else i for n, i in enumerate(toy_catalog())], TERM_IDS)


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat")
    toy_model().save_pretrained(folder)
    toy_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("shots", [0, 2])
def test_its_answers_are_the_likeliest_titles_and_one_title_stands_for_all_its_items(chat: Path, shots: int) -> None:
    grlm = chat_model(ZeroShotConfig(str(chat), shots), TWINS, toy_histories())
    assert [i.item_id for i in grlm.catalog] == IDS
    assert [len(group) for group in grlm.catalog.collisions.values()] == [2]
    history = [IDS[3], IDS[8]]
    found = grlm.recommend(history, 12, exact=True)
    assert {r.item_id for r in found} == set(IDS)
    tents = [(n, r.log_prob) for n, r in enumerate(found) if r.title == "The same tent"]
    assert tents[1][0] == tents[0][0] + 1
    assert tents[0][1] == tents[1][1]
    # brute force: one plain forward a title, normalised over what other titles allow
    (prompt,) = grlm.prompter.prompts(grlm.shelf.index, [[grlm.catalog.position(i) for i in history]])
    paths = {r.item_id: grlm.shelf.index.path(grlm.catalog.position(r.item_id)).tolist() for r in found}
    for r in found[::3]:
        path, total = paths[r.item_id], 0.0
        with torch.no_grad():
            rows = grlm.model(torch.tensor([[*prompt, *path]])).logits[0, len(prompt) - 1 : -1].double()
        for i, (token, row) in enumerate(zip(path, rows, strict=True)):
            total += float(row[token] - row[sorted({p[i] for p in paths.values() if p[:i] == path[:i]})].logsumexp(0))
        assert r.log_prob == pytest.approx(total, abs=1e-4)


def test_the_prompt_holds_the_history_and_worked_examples_of_other_users(chat: Path) -> None:
    histories = toy_histories()
    grlm = chat_model(ZeroShotConfig(str(chat), 2), TWINS, histories, seed=3)
    grlm.model.config.max_position_embeddings = 4096  # bytes are tokens here; no forward runs

    def prompt(items: list[str]) -> str:
        return grlm.tokenizer.decode(grlm.prompter.prompts(grlm.shelf.index, [[grlm.catalog.position(i) for i in items]])[0])

    text = prompt([IDS[3], IDS[8]])
    assert text.count("<|im_start|>user") == 3
    assert text.count("<|im_start|>assistant") == 3
    assert text.endswith("<|im_start|>assistant\n")
    last = text.rpartition("<|im_start|>user")[2]
    assert last.index(TWINS[IDS[3]].title) < last.index(TWINS[IDS[8]].title)
    # a user is no example for itself; the spare one takes its place
    drawn = grlm.prompter.examples
    assert len(drawn) == 3
    shown = ["".join(TWINS[i].title + "\n" for i in one[:-1]) for one in drawn]
    assert [one in text.rpartition("<|im_start|>user")[0] for one in shown] == [True, True, False]
    own = prompt(list(drawn[0])).rpartition("<|im_start|>user")[0]
    assert [one in own for one in shown] == [False, True, True]


def test_too_long_prompts_lose_old_items_first_then_examples(chat: Path) -> None:
    grlm = chat_model(ZeroShotConfig(str(chat), 2), TWINS, toy_histories())
    index, positions = grlm.shelf.index, [[3, 8, 9, 5]]
    whole = len(grlm.prompter.prompts(index, positions)[0])
    short = len(chat_model(ZeroShotConfig(str(chat), 0), TWINS, ()).prompter.prompts(index, [[5]])[0])
    answer = index.trie.depth + 1
    for limit in range(short + answer, whole + answer + 1, 7):
        grlm.model.config.max_position_embeddings = limit
        (ids,) = grlm.prompter.prompts(index, positions)
        assert short <= len(ids) <= limit - answer
        assert TWINS.items[5].title in grlm.tokenizer.decode(ids).rpartition("<|im_start|>user")[2]
    grlm.model.config.max_position_embeddings = short + answer - 1
    with pytest.raises(ValueError, match=r"A question with one title has .* takes longer texts"):
        grlm.prompter.prompts(index, positions)


def test_a_model_without_a_template_says_what_to_do(chat: Path, tmp_path: Path) -> None:
    toy_model().save_pretrained(tmp_path)
    tokenizer = type(toy_tokenizer()).from_pretrained(chat)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has no chat template, so no question can be put to it. Name its instruction-tuned version"):
        chat_model(ZeroShotConfig(str(tmp_path)), TWINS, toy_histories())
    with pytest.raises(ValueError, match=r"shots is 3; only 2 training users"):
        chat_model(ZeroShotConfig(str(chat), 3), TWINS, toy_histories(2))
    with pytest.raises(ValueError, match=r"zero_shot.shots is 21; expected 0 to 20"):
        load_recipe(None, ["evaluate.zero_shot.shots=21"])


def test_the_second_stage_reorders_the_first_candidates_and_keeps_the_rest() -> None:
    grlm, histories = toy_grlm(), [IDS[:2], IDS[4:5], IDS[6:7]]
    first = [IDS[2:9], IDS[5:8], []]
    found = reranked(grlm, lambda h, **_: Rankings([first[histories.index(one)] for one in h]), 4)(histories)
    for history, before, after in zip(histories, first, found.items, strict=True):
        assert sorted(after[:4]) == sorted(before[:4])
        assert after[4:] == before[4:]
        said = grlm.score(history, after[:4])
        assert (np.diff(said) <= 0).all()
    assert found.items[0] != first[0]
    twins = [IDS[7], IDS[6]]  # one Term ID: the retriever's order stays
    assert reranked(grlm, lambda h: Rankings([twins]), 2)([IDS[:1]]).items == [twins]
    with pytest.raises(ValueError, match=r"rerank.retriever is 'grlm'; expected a method without the language model: \['x'\]"):
        second_stage(RerankConfig("grlm"), grlm, {"grlm": lambda h: Rankings([]), "x": lambda h: Rankings([])})


@pytest.mark.usefixtures("blank_pictures")
def test_both_are_rows_of_a_report(chat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy_catalog().save_pretrained(tmp_path / "catalog")
    rows = [{"user_id": h.user_id, "items": list(h.items)} for h in toy_histories()]
    (tmp_path / "sequences.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    make_dataset(tmp_path, tmp_path / "catalog", tmp_path / "d", MixtureConfig(max_history=3), DataConfig())
    toy_grlm("trie").save_pretrained(tmp_path / "checkpoint")
    rerank = RerankConfig("popularity", 4)
    some = EvaluateConfig(resamples=10, zero_shot=ZeroShotConfig(str(chat), 1, 7), rerank=rerank)
    report = make_report(tmp_path / "checkpoint", tmp_path / "d", tmp_path / "report.json", some)
    assert report.protocol.zero_shot == f"first 7 users; {chat}, 1 worked examples"
    assert load_report(tmp_path / "report.json").protocol == report.protocol
    assert report.methods["zero-shot"]["recall@20"].value == 1  # all titles are answers, in a catalog of a dozen
    assert report.methods["rerank(popularity)"]["recall@20"].value == report.methods["popularity"]["recall@20"].value
    assert report.methods["rerank(popularity)"]["mrr"] != report.methods["popularity"]["mrr"]
    assert verdict(report).ship not in ("zero-shot", "rerank(popularity)")
    assert explained("rerank(item_knn)") == "the first items of item_knn, reordered by the language model"
    assert "zero-shot" not in {name for c in report.comparisons for name in (c.a, c.b)}
    args = ["evaluate", str(tmp_path / "checkpoint"), str(tmp_path / "d"), "--output", str(tmp_path / "all.json"), "--set"]
    app([*args, "evaluate.resamples=10", "--zero-shot", str(chat), "--shots", "0", "--json"], result_action="return_value")
    whole = json.loads(capsys.readouterr().out)
    assert whole["protocol"]["zero_shot"] == f"first 40 users; {chat}, 0 worked examples"
    assert "zero-shot" in {name for c in whole["comparisons"] for name in (c["a"], c["b"])}
    with pytest.raises(ValueError, match=r"--shots is the number of worked examples .* add --zero-shot MODEL"):
        app([*args, "evaluate.resamples=10", "--shots", "2"], result_action="return_value")


@given(st.text(max_size=300))
def test_any_title_is_written_in_one_form_and_read_again(text: str) -> None:
    identifier = (written_title(text),)
    assert TITLES.validate(identifier) == identifier == TITLES.parse(TITLES.line(identifier))
    assert TITLES.line(identifier).count("\n") == 1
    assert not set("[]<>") & set(identifier[0])
