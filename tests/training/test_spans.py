"""Completions of free text and identifiers: which tokens belong to which, and what each costs."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import legal_tokens, random_catalog, toy_catalog, toy_histories, toy_tokenizer

from grlm_hf.data.interactions import leave_one_out
from grlm_hf.identifiers.terms import TERMS
from grlm_hf.tasks.examples import Example, Span, default_spans
from grlm_hf.tasks.mixture import examples_to_dataset, make_mixture, mixture_features
from grlm_hf.tokens import identifier_tokens
from grlm_hf.training import head as head_module
from grlm_hf.training.head import vocabulary_log_probs
from grlm_hf.training.labels import tokenize_mixture
from grlm_hf.training.objective import IGNORED, free_text_labels
from grlm_hf.training.scratch import ScratchConfig, make_model
from grlm_hf.training.trainer import TermIDTrainer
from grlm_hf.trie.walker import TrieWalker

TOKENIZER, CATALOG = toy_tokenizer(), toy_catalog()
TRIE = CATALOG.trie(TOKENIZER)
EOS = TOKENIZER.eos_token_id
LINES = [TERMS.line(identifier) for identifier in CATALOG.identifiers]
PATHS = identifier_tokens(TOKENIZER, TERMS, CATALOG.identifiers)
TINY = ScratchConfig(vocab_size=380, hidden_size=32, intermediate_size=64, layers=1, heads=1, kv_heads=1, max_positions=512)

THOUGHT = Span("A tent, for two.\n")
ANSWER = Span(LINES[3], "identifiers")
MIXED = [
    (THOUGHT, ANSWER),
    (THOUGHT, Span(LINES[0] + LINES[5], "identifiers"), Span("Or, for a friend:\n"), ANSWER),
    (Span("Shown, not learnt.\n", learnt=False), ANSWER, Span("And that is all.")),
    (Span(LINES[1], "identifiers", learnt=False), Span("Then\n"), Span(LINES[2] + LINES[4], "identifiers")),
]
PURE = [default_spans("sequence", LINES[2] + LINES[7], TERMS), default_spans("chat", "Hello. " + LINES[0], TERMS)]


def table(answers: list[tuple[Span, ...]], task: str = "thinking") -> Any:
    return examples_to_dataset([Example(task, f"k{n}", f"question {n}", spans) for n, spans in enumerate(answers)])


# --- tables ------------------------------------------------------------------------------------------------------------------------


def test_a_table_states_spans_only_where_the_task_does_not_say_them() -> None:
    plain = make_mixture(CATALOG, leave_one_out(toy_histories()).train).dataset
    assert plain.features == mixture_features()
    rows = table([*MIXED, *PURE])
    assert rows.features == mixture_features(spans=True)
    # of a task without a rule of its own identifiers are expected
    assert [tuple(Span(**s) for s in row["spans"]) for row in rows] == [*MIXED, (), PURE[1]]
    assert ["".join(s.text for s in spans) for spans in [*MIXED, *PURE]] == [row["completion"][0]["content"] for row in rows]
    assert examples_to_dataset([], spans=True).features == mixture_features(spans=True)


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ((THOUGHT, Span("[no, item]\n", "identifiers")), r"with '\[no, item\]\\n', which is no identifier of the catalog"),
        ((Span("Take:"), ANSWER), r"not its items' trie paths: 'Take:\["),
        ((Span("Take a "), Span(LINES[3][1:], "identifiers")), "is no identifier of the catalog"),
    ],
)
def test_spans_that_are_refused(spans: tuple[Span, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tokenize_mixture(table([spans]), TOKENIZER, CATALOG)


def test_a_column_that_does_not_fit_the_completion() -> None:
    for own in ({"text": "Another text", "kind": "text", "learnt": True}, {"text": "A", "kind": "thought", "learnt": True}):
        row = table([(Span("A"),)])[0] | {"spans": [own]}
        rows = table([(Span("A"),)]).from_list([row], features=mixture_features(spans=True))
        with pytest.raises(ValueError, match=r"spans that do not fit its completion: .*; expected texts that make up 'A'"):
            tokenize_mixture(rows, TOKENIZER, CATALOG)


# --- tokens and labels -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["vocabulary", "trie"])
def test_each_token_belongs_to_its_span(objective: str) -> None:
    rows = tokenize_mixture(table([*MIXED, *PURE]), TOKENIZER, CATALOG, objective=objective)
    assert ("free_text" in rows.column_names) == (objective == "trie")
    for spans, row in zip([*MIXED, *PURE], rows, strict=True):
        begin = len(row["input_ids"]) - 1 - len(TOKENIZER("".join(s.text for s in spans), add_special_tokens=False)["input_ids"])
        assert not any(row["completion_mask"][:begin])
        at = begin
        for span in spans:
            if span.kind == "identifiers":  # as the trie has them
                own = [t for line in span.text.splitlines(keepends=True) for t in PATHS[LINES.index(line)]]
            else:  # here no token of a text depends on what is beside it
                own = TOKENIZER(span.text, add_special_tokens=False)["input_ids"]
            assert row["input_ids"][at : at + len(own)] == own
            assert row["completion_mask"][at : at + len(own)] == [int(span.learnt)] * len(own)
            if objective == "trie":
                assert row["free_text"][at : at + len(own)] == [int(span.learnt and span.kind == "text")] * len(own)
            at += len(own)
        assert (row["input_ids"][at:], row["completion_mask"][at:]) == ([EOS], [1])
        if objective == "trie":
            assert row["free_text"][at:] == [int(spans[-1].kind == "text")]


def test_for_validation_the_last_identifier_alone_and_what_follows_it() -> None:
    rows = tokenize_mixture(table(MIXED), TOKENIZER, CATALOG, last_only=True)
    for row, line, behind in zip(rows, (LINES[3], LINES[3], LINES[3], LINES[4]), ("", "", "And that is all.", ""), strict=True):
        labels = [t for t, m in zip(row["input_ids"], row["completion_mask"], strict=True) if m]
        assert labels == [*PATHS[LINES.index(line)], *TOKENIZER(behind, add_special_tokens=False)["input_ids"], EOS]


def test_no_special_token_comes_from_a_text() -> None:
    forged = (Span(f"A{TOKENIZER.eos_token}.\n"), ANSWER, Span(f"B{TOKENIZER.pad_token}"))
    (row,) = tokenize_mixture(table([forged]), TOKENIZER, CATALOG)
    answer = row["input_ids"][row["completion_mask"].index(1) :]
    assert [answer.count(token) for token in TOKENIZER.all_special_ids] == [int(token == EOS) for token in TOKENIZER.all_special_ids]


@pytest.mark.parametrize("seed", range(6))
def test_free_text_is_what_stands_before_the_last_run_of_identifiers(seed: int) -> None:
    """Against a search through all suffixes of the labels."""
    rng = random.Random(seed)
    catalog = random_catalog(rng)
    paths = [p.tolist() for p in catalog.trie(TOKENIZER).paths()]
    tokens = [t for path in paths for t in path]
    rows = []
    for _ in range(12):
        text = [rng.choice(tokens) for _ in range(rng.randint(0, 6))]
        text += rng.choice(paths)[: rng.randint(0, 9)]  # perhaps a whole one
        row = [IGNORED] * rng.randint(0, 3) + text + [t for _ in range(rng.randint(0, 2)) for t in rng.choice(paths)]
        rows.append(row + [EOS] * rng.randint(0, 1))
    length = max(map(len, rows)) + 1
    labels = torch.tensor([row + [IGNORED] * (length - len(row)) for row in rows])

    def is_run(found: list[int]) -> bool:
        return not found or any(found[: len(p)] == p and is_run(found[len(p) :]) for p in paths)

    got = free_text_labels(labels, TrieWalker(catalog.trie(TOKENIZER)), EOS)
    for row, mask in zip(labels.tolist(), got.tolist(), strict=True):
        places = [n for n, t in enumerate(row) if t not in (IGNORED, EOS)]
        whole = [n for n in range(len(places)) if is_run([row[p] for p in places[n:]])]
        assert [n for n, m in enumerate(mask) if m] == (places[: whole[0]] if whole else [])


# --- the loss ----------------------------------------------------------------------------------------------------------------------


def trainer(folder: Path, rows: Any, objective: str) -> TermIDTrainer:
    from trl import SFTConfig

    settings = {"bf16": False, "gradient_checkpointing": False, "use_cpu": True, "max_length": None, "completion_only_loss": True}
    args = SFTConfig(output_dir=str(folder), report_to="none", disable_tqdm=True, **settings)
    return TermIDTrainer(
        make_model(TINY, TOKENIZER, 0), trie=TRIE if objective == "trie" else None, args=args, train_dataset=rows,
        processing_class=TOKENIZER,
    )  # fmt: skip


def brute_force(model: Any, rows: Any, spans: list[tuple[Span, ...]], objective: str) -> torch.Tensor:
    """The mean loss of the labels, from all logits of each row; those of an identifier masked to the legal children of its node."""
    total, labels = torch.zeros(()), 0
    for row, some in zip(rows, spans, strict=True):
        logits = model(torch.tensor([row["input_ids"]])).logits[0]
        at = len(row["input_ids"]) - 1 - len(TOKENIZER("".join(s.text for s in some), add_special_tokens=False)["input_ids"])
        for span in some:
            if span.kind == "text":
                units = [(TOKENIZER(span.text, add_special_tokens=False)["input_ids"], False)]
            else:
                units = [(PATHS[LINES.index(line)], objective == "trie") for line in span.text.splitlines(keepends=True)]
            for tokens, held in units:
                for n, token in enumerate(tokens):
                    mask = torch.zeros(logits.shape[1])
                    if held:
                        mask[:] = -torch.inf
                        mask[list(legal_tokens(TRIE, tokens[:n]))] = 0
                    if span.learnt:
                        total = total - (logits[at - 1] + mask).log_softmax(0)[token]
                        labels += 1
                    at += 1
        if objective == "vocabulary" or some[-1].kind == "text":  # behind an identifier the end of the answer is forced
            total = total - logits[at - 1].log_softmax(0)[EOS]
        labels += 1
    return total / labels


@pytest.mark.parametrize("objective", ["vocabulary", "trie"])
@pytest.mark.parametrize("answers", [[MIXED[1]], MIXED, PURE, [*MIXED, *PURE]])
def test_loss_and_gradients_equal_a_brute_force_over_all_logits(answers: Any, objective: str, tmp_path: Path) -> None:
    rows = tokenize_mixture(table(answers), TOKENIZER, CATALOG, objective=objective)
    made = trainer(tmp_path, rows, objective)
    parameters = list(made.model.parameters())
    batch = made.data_collator([made.train_dataset[n] for n in range(len(rows))])
    loss = made.compute_loss(made.model, batch)
    got = torch.autograd.grad(loss, parameters)
    expected = brute_force(made.model, rows, answers, objective)
    want = torch.autograd.grad(expected, parameters)
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("num_items", [None, 57])
def test_free_text_alone_costs_the_same_under_both_objectives(num_items: int | None, tmp_path: Path) -> None:
    losses = []
    for objective in ("vocabulary", "trie"):
        answers = [(Span(f"An answer, {n * 'very '}long."),) for n in range(4)]
        rows = tokenize_mixture(table(answers), TOKENIZER, CATALOG, objective=objective)
        made = trainer(tmp_path / objective, rows, objective)
        batch = made.data_collator([made.train_dataset[n] for n in range(4)])
        losses.append(made.compute_loss(made.model, batch, num_items_in_batch=num_items))
    assert torch.equal(*losses)


def test_tasks_of_identifiers_alone_make_no_logits_of_the_vocabulary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = tokenize_mixture(table([PURE[0]]), TOKENIZER, CATALOG, objective="trie")
    made = trainer(tmp_path, rows, "trie")
    monkeypatch.setattr("grlm_hf.training.trainer.vocabulary_nll", None)
    assert made.compute_loss(made.model, made.data_collator([made.train_dataset[0]])) > 0


def test_free_text_needs_a_plain_head_beside_the_trie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = tokenize_mixture(table(PURE), TOKENIZER, CATALOG, objective="trie")
    monkeypatch.setattr(head_module, "_SHAPED", ("vocab_size",))
    with pytest.raises(ValueError, match=r"objective=trie cannot learn free text with it\. Use train\.objective=vocabulary"):
        trainer(tmp_path, rows, "trie")


@pytest.mark.parametrize("rows_at_once", [1, 3, 100])
def test_log_probs_and_their_gradients_are_those_of_all_logits(rows_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    head, hidden, label = torch.nn.Linear(5, 11), torch.randn(7, 5, requires_grad=True), torch.randint(0, 11, (7,))
    monkeypatch.setattr(head_module, "_CHUNK", rows_at_once * 11)
    weight = torch.randn(7)
    found = []
    for log_p in (vocabulary_log_probs(hidden, head, label), head(hidden).log_softmax(1)[torch.arange(7), label]):
        found.append([log_p, *torch.autograd.grad((weight * log_p).sum(), [hidden, *head.parameters()])])
    for ours, whole in zip(*found, strict=True):
        torch.testing.assert_close(ours, whole, atol=1e-5, rtol=1e-5)
