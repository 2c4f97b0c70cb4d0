from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toys import TERM_IDS, legal_tokens, toy_catalog, toy_histories, toy_tokenizer

from grlm_hf.data.interactions import leave_one_out
from grlm_hf.identifiers.terms import TERMS
from grlm_hf.modeling.recommender import GRLMForRecommendation
from grlm_hf.priors.sequence import SequenceConfig, SequenceModel
from grlm_hf.priors.sequence_training import train_sequence_model
from grlm_hf.stages.teacher import _teacher
from grlm_hf.tasks.examples import Example, Span
from grlm_hf.tasks.mixture import MixtureConfig, examples_to_dataset, make_mixture
from grlm_hf.tokens import identifier_tokens
from grlm_hf.training.config import DistillConfig, LoraConfig, TrainConfig
from grlm_hf.training.distill import Teacher, first_items, questions_of, sampled_examples
from grlm_hf.training.label_store import LabelStore, make_labels
from grlm_hf.training.label_store import asked as ask
from grlm_hf.training.labels import taught_items
from grlm_hf.training.objective import IGNORED, label_nodes, trie_losses
from grlm_hf.training.scratch import ScratchConfig
from grlm_hf.training.sft import tokenize_mixture, train
from grlm_hf.training.trainer import _Collator
from grlm_hf.trie.walker import TrieWalker

TOKENIZER, CATALOG = toy_tokenizer(), toy_catalog()
TRIE = CATALOG.trie(TOKENIZER)
WALKER = TrieWalker(TRIE, "cpu")
HISTORIES = leave_one_out(toy_histories()).train
IDS = [item.item_id for item in CATALOG]
NUMBER = {tid: n for n, tid in enumerate(CATALOG.identifiers)}
TINY = ScratchConfig(vocab_size=380, hidden_size=32, intermediate_size=64, layers=1, heads=1, kv_heads=1, max_positions=512)


@pytest.fixture(scope="module")
def model() -> SequenceModel:
    config = SequenceConfig(layers=1, width=8, heads=1, epochs=20, learning_rate=0.02, dropout=0.0, bf16=False)
    return train_sequence_model(sorted(IDS), HISTORIES, config)  # its rows stand in another order than the catalog


def asked(model: SequenceModel, items: list[str]) -> dict[tuple[str, ...], float]:
    """Probability of each identifier after the items, by the scorer's own words."""
    p = np.exp(model.scores([items])[0].astype(float))
    total: dict[tuple[str, ...], float] = {}
    for item, tid in zip(CATALOG.items, CATALOG.term_ids, strict=True):
        total[tid] = total.get(tid, 0.0) + p[model.rows[item.item_id]]
    return total


def labels(model: SequenceModel, sequences: list[list[int]], work: Path, top: int = 100) -> LabelStore:
    return make_labels(ask(model, top), model.item_ids, questions_of(sequences, CATALOG), work)


@pytest.mark.parametrize("top", [100, 4])
def test_the_teacher_sums_its_items_between_ranks(model: SequenceModel, top: int, tmp_path: Path) -> None:
    items = [[IDS[0], IDS[3], IDS[6]], [IDS[9], IDS[2]]]
    sequences = [[NUMBER[CATALOG.term_id(i)] for i in row] for row in items]
    teacher = Teacher(labels(model, sequences, tmp_path / "work", top), CATALOG, TRIE)
    answers = teacher.answers(teacher.rows(sequences))
    rows = [row[:n] for row in items for n in range(1, len(row))]
    assert len(answers) == len(rows) == 3
    border = torch.arange(len(TRIE) + 1)
    for question, row in enumerate(rows):
        exact = np.exp(model.scores([row])[0].astype(float))
        kept = set(np.argsort(-exact)[:top])
        rest = (1 - exact[list(kept)].sum()) / max(len(exact) - top, 1)
        p: dict[tuple[str, ...], float] = {tid: rest if top < len(exact) else 0.0 for tid in CATALOG.identifiers}
        for n, item in enumerate(model.item_ids):
            p[CATALOG.term_id(item)] += exact[n] if n in kept else 0.0
        want = np.concatenate([[0], np.cumsum([p[CATALOG.identifiers[leaf]] for leaf in TRIE.leaf])])
        got = answers.mass(torch.tensor(question), border * 0, border)
        assert np.allclose(got.numpy(), want, atol=2e-3)  # kept in half precision
        assert not (tmp_path / "work").exists()


def test_a_store_is_kept_as_it_was_and_goes_on_after_an_interruption(model: SequenceModel, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("grlm_hf.training.label_store._PART", 2)
    sequences = [[0, 4, 6], [8, 2], [8, 2, 1, 5]]
    calls: list[int] = []

    def counted(histories: Any) -> Any:
        calls.append(len(histories))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return ask(model, 5)(histories)

    questions = questions_of(sequences, CATALOG)
    assert len(questions) == 9
    with pytest.raises(KeyboardInterrupt):
        make_labels(counted, model.item_ids, questions, tmp_path / "work")
    made = make_labels(counted, model.item_ids, questions, tmp_path / "work")
    assert len(made) == 7  # two are asked twice
    assert sum(calls[2:]) == 5  # the first part was kept
    made.save(tmp_path / "store")
    again = LabelStore.load(tmp_path / "store")
    assert again.item_ids == made.item_ids
    for name in ("questions", "items", "p"):
        assert np.array_equal(getattr(again, name), getattr(made, name))
    assert (again.rows(questions) == labels(model, sequences, tmp_path / "other", 5).rows(questions)).all()
    with pytest.raises(ValueError, match="made for another dataset"):
        again.rows([["no such item"]])


def test_an_auxiliary_readout_begins_as_the_plain_loss_and_is_no_part_of_the_checkpoint(model: SequenceModel, tmp_path: Path) -> None:
    mixture = make_mixture(CATALOG, HISTORIES, MixtureConfig(max_history=3, internalise=0.0)).dataset
    config = TrainConfig(scratch=TINY, objective="trie", epochs=2, batch_size=16, distill=DistillConfig(weight=0.7, auxiliary=True))
    store = labels(model, taught_items(mixture, CATALOG), tmp_path / "w")
    grlm = train(CATALOG, mixture, tmp_path / "work", config, max_history=3, teacher=store)
    plain = train(CATALOG, mixture, tmp_path / "plain", replace(config, distill=DistillConfig(weight=0.7)), max_history=3, teacher=store)
    assert not [name for name in grlm.model.state_dict() if "readout" in name]
    assert grlm.model.state_dict().keys() == plain.model.state_dict().keys()
    first = [json.loads((tmp_path / name / "log.json").read_text())[0]["loss"] for name in ("work", "plain")]
    assert first[0] > first[1]  # the true items keep their whole weight
    grlm.save_pretrained(tmp_path / "out")
    again = GRLMForRecommendation.from_pretrained(tmp_path / "out").recommend([IDS[0]], 3)
    assert [r.item_id for r in again] == [r.item_id for r in grlm.recommend([IDS[0]], 3)]
    with pytest.raises(ValueError, match="LoRA"):
        replace(config, model="x", lora=LoraConfig(rank=4)).check()


def test_drawn_answers_are_the_teachers_and_never_of_the_history(model: SequenceModel, tmp_path: Path) -> None:
    mixture = make_mixture(CATALOG, HISTORIES, MixtureConfig(max_history=3, internalise=0.0)).dataset
    sequences = taught_items(mixture, CATALOG)
    store = labels(model, sequences, tmp_path / "w", top=5)
    examples = sampled_examples(store, CATALOG, sequences, 2.5, seed=1)
    assert 2 * len(sequences) < len(examples) < 3 * len(sequences)
    assert [e.spans for e in examples] == [e.spans for e in sampled_examples(store, CATALOG, sequences, 2.5, seed=1)]
    rows = tokenize_mixture(examples_to_dataset(examples), TOKENIZER, CATALOG, objective="trie", identifiers=True)
    whole = {tuple(s) for s in sequences}
    ends = 0
    for row in rows["identifiers"]:
        question = [CATALOG.items[CATALOG.term_ids.index(CATALOG.identifiers[n])].item_id for n in row[:-1]]
        kept = store.items[store.rows([question])[0]]
        assert CATALOG.identifiers[row[-1]] in {CATALOG.term_id(store.item_ids[n]) for n in kept}
        assert row[-1] not in row[:-1]
        ends += tuple(row[:-1]) in whole
    assert 0.4 < ends / len(rows) < 0.9
    config = TrainConfig(scratch=TINY, objective="trie", epochs=1, batch_size=16, distill=DistillConfig(weight=0.7, sampled=1.0))
    assert train(CATALOG, mixture, tmp_path / "work", config, max_history=3, teacher=store) is not None


def test_a_checkpoint_teaches_as_it_recommends(model: SequenceModel, tmp_path: Path) -> None:
    mixture = make_mixture(CATALOG, HISTORIES, MixtureConfig(max_history=3, internalise=0.0)).dataset
    grlm = train(CATALOG, mixture, tmp_path / "work", TrainConfig(scratch=TINY, objective="trie", epochs=1, batch_size=16), max_history=3)
    grlm.save_pretrained(tmp_path / "teacher")
    ids, ask_it = _teacher(DistillConfig(weight=0.5, teacher=str(tmp_path / "teacher"), top=4), None)
    items, p = ask_it([[IDS[0], IDS[2]], [IDS[5]]])
    found = grlm.recommend([[IDS[0], IDS[2]], [IDS[5]]], 4, num_beams=4)
    assert [[ids[n] for n in row] for row in items] == [[r.item_id for r in row] for row in found]
    assert np.allclose(p, [[np.exp(r.log_prob) for r in row] for row in found])


def test_soft_losses_and_gradients_equal_a_brute_force_over_children(model: SequenceModel, tmp_path: Path) -> None:
    paths = identifier_tokens(TOKENIZER, TERMS, CATALOG.identifiers)
    rows = [[0, 4, 6], [8, 2]]
    learnt = [[IGNORED] + [t for n in row[1:] for t in paths[n]] for row in rows]
    longest = max(map(len, learnt))
    label = torch.tensor([row + [IGNORED] * (longest - len(row)) for row in learnt])
    node = label_nodes(label, WALKER, TOKENIZER.eos_token_id)
    used = node[1] > node[0]
    node = tuple(x[used] for x in node)
    teacher = Teacher(labels(model, rows, tmp_path / "work"), CATALOG, TRIE)
    answers = teacher.answers(teacher.rows(rows))
    begins = used & (label_nodes(label, WALKER, TOKENIZER.eos_token_id)[2] == 0)
    question = (begins.flatten().cumsum(0).reshape(begins.shape) - 1)[used]
    torch.manual_seed(0)
    hidden = torch.randn(int(used.sum()), 16, requires_grad=True)
    embedding = torch.randn(len(TOKENIZER), 16, requires_grad=True)
    _, soft = trie_losses(hidden, embedding, node, label[used], WALKER, answers, question)
    grads = torch.autograd.grad(soft.sum(), (hidden, embedding))

    want, at = [], 0
    for row in rows:
        for n in range(1, len(row)):
            p = asked(model, [CATALOG.items[CATALOG.term_ids.index(CATALOG.identifiers[m])].item_id for m in row[:n]])
            path = paths[row[n]]
            for depth in range(len(path)):
                children = sorted(legal_tokens(TRIE, path[:depth]))
                mass = torch.tensor([
                    sum(p[CATALOG.identifiers[m]] for m, other in enumerate(paths) if other[: depth + 1] == [*path[:depth], child])
                    for child in children
                ])  # fmt: skip
                log_p = (hidden[at] @ embedding[children].T).log_softmax(0)
                want.append(-(mass.float() / mass.sum().float() * log_p).sum())
                at += 1
    assert at == len(hidden)
    assert torch.allclose(soft, torch.stack(want), atol=1e-2)  # labels in half precision
    for got, expected in zip(grads, torch.autograd.grad(torch.stack(want).sum(), (hidden, embedding)), strict=True):
        assert torch.allclose(got, expected, atol=1e-2)


def test_examples_name_their_items_and_only_those_of_histories() -> None:
    mixture = make_mixture(CATALOG, HISTORIES, MixtureConfig(max_history=3)).dataset
    history = {h.user_id: [NUMBER[CATALOG.term_id(i)] for i in h.items[-4:]] for h in HISTORIES}
    rows = tokenize_mixture(mixture, TOKENIZER, CATALOG, objective="trie", identifiers=True)
    tasks = set()
    for task, key, row in zip(mixture["task"], mixture["key"], rows, strict=True):
        assert row["identifiers"] == (history[key] if task == "sequence" else [])
        tasks.add(task)
    assert tasks == {"sequence", "internalise"}


def test_items_of_a_history_are_found_behind_a_thought() -> None:
    line = [TERMS.line(CATALOG.term_id(i)) for i in IDS[:4]]
    thought = (Span(f"Not {line[3]}.\n"), Span(line[2], "identifiers"))
    rows = examples_to_dataset([Example("sequence", "u", f"Next items after:\n{line[0]}{line[1]}".strip(), thought)])
    (row,) = tokenize_mixture(rows, TOKENIZER, CATALOG, objective="trie", identifiers=True)
    assert row["identifiers"] == [NUMBER[CATALOG.term_id(i)] for i in IDS[:3]]
    assert sum(row["free_text"]) == len(TOKENIZER(thought[0].text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("asked_last", [0, 1])
def test_each_label_meets_the_teachers_answer_to_its_own_question(model: SequenceModel, asked_last: int, tmp_path: Path) -> None:
    """Rows with a teacher and without, and rows whose last items alone are learnt."""
    sequences = [[0, 4, 6], [], [8, 2, 5, 1], [3, 7]]  # identifiers of each row; the second has labels, but no teacher
    learnt = [row[-1:] if asked_last else row[1:] for row in sequences]
    learnt[1] = [9]
    paths = identifier_tokens(TOKENIZER, TERMS, CATALOG.identifiers)
    label = [[5, IGNORED] + [t for n in row for t in paths[n]] for row in learnt]
    longest = max(map(len, label))
    batch = {"labels": torch.tensor([row + [IGNORED] * (longest - len(row)) for row in label])}
    store = labels(model, sequences, tmp_path / "work")
    found = _Collator(lambda rows: batch, TRIE, Teacher(store, CATALOG, TRIE))([{"identifiers": s} for s in sequences])
    lo, hi, _ = found["nodes"]
    assert ((hi > lo).sum(1) == torch.tensor([sum(len(paths[n]) for n in row) for row in learnt])).all()
    questions = questions_of(sequences, CATALOG)
    row_of = {tuple(q): int(store.rows([q])[0]) for q in questions}
    items = first_items(CATALOG)
    for r, (sequence, numbers) in enumerate(zip(sequences, learnt, strict=True)):
        at = 0
        for place, n in enumerate(numbers):
            end = len(sequence) - len(numbers) + place
            for _ in paths[n]:
                question = int(found["question"][r, 1 + at])
                if sequence:
                    assert found["asked"][question] == row_of[tuple(items[m] for m in sequence[:end])]
                else:
                    assert question == -1
                at += 1
    assert len(found["asked"]) == sum(len(row) for row, s in zip(learnt, sequences, strict=True) if s)


def test_a_model_taught_by_nothing_but_the_teacher_comes_to_agree_with_it(model: SequenceModel, tmp_path: Path) -> None:
    mixture = make_mixture(CATALOG, HISTORIES, MixtureConfig(max_history=3, internalise=0.0)).dataset
    config = TrainConfig(
        scratch=TINY, objective="trie", epochs=60, learning_rate=0.01, batch_size=16, dropout=0.0, distill=DistillConfig(weight=1.0)
    )
    store = labels(model, taught_items(mixture, CATALOG), tmp_path / "labels")
    grlm = train(CATALOG, mixture, tmp_path / "work", config, max_history=3, teacher=store)
    log = json.loads((tmp_path / "work" / "log.json").read_text())
    assert log[-1]["train_loss"] < log[0]["loss"]
    apart = []
    for history in [list(h.items[-3:]) for h in HISTORIES[:10]]:
        want = asked(model, history)
        got = {r.term_id: np.exp(r.log_prob) for r in grlm.recommend(history, len(CATALOG), num_beams=len(NUMBER))}
        apart.append(sum(abs(want[tid] - got[tid]) for tid in set(TERM_IDS)) / 2)
    assert np.mean(apart) < 0.2  # total variation; two distributions over a dozen items drawn at random lie .5 and more apart


def test_batches_made_by_other_processes_teach_the_same(model: SequenceModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU's machine, where two processes collate: the same batches and the same dropout, in later epochs, too."""
    from grlm_hf.training import sft

    mixture = make_mixture(CATALOG, HISTORIES, MixtureConfig(max_history=3)).dataset
    store = labels(model, taught_items(mixture, CATALOG), tmp_path / "labels")
    config = TrainConfig(scratch=TINY, objective="trie", epochs=3, batch_size=16, distill=DistillConfig(weight=0.5, sampled=1.0))
    plain = sft.trl_settings
    weights = []
    for workers in (0, 2):
        more = {"dataloader_num_workers": workers}
        monkeypatch.setattr(sft, "trl_settings", lambda *args, more=more, **own: plain(*args, **own | more))
        grlm = train(CATALOG, mixture, tmp_path / f"work{workers}", config, max_history=3, teacher=store)
        assert grlm is not None
        weights.append(grlm.model.get_input_embeddings().weight.detach().clone())
    assert torch.equal(*weights)


def test_bad_input_is_named(model: SequenceModel, tmp_path: Path) -> None:
    strange = LabelStore(("x", "y"), np.zeros(0, np.uint64), np.zeros((0, 1), np.int32), np.zeros((0, 1), np.float16))
    with pytest.raises(ValueError, match="knows none of the catalog's items"):
        Teacher(strange, CATALOG, TRIE)
    with pytest.raises(ValueError, match="objective=trie"):
        TrainConfig(distill=DistillConfig(weight=0.5))
    with pytest.raises(ValueError, match="needs the teacher's answers"):
        train(CATALOG, make_mixture(CATALOG, HISTORIES).dataset, tmp_path, TrainConfig(objective="trie", distill=DistillConfig(weight=0.5)))
