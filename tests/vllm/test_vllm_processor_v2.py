"""Both processors against brute force, through the interfaces of the installed vLLM, without an engine: requests come, go, are moved,
thrown out and taken up again. The model runner V2 needs a GPU; its own classes hold what the processor reads here."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from toys import random_catalog, toy_tokenizer

from grlm_hf.decoding.index import SearchIndex
from grlm_hf.identifiers.terms import TERMS
from grlm_hf.tokens import identifier_tokens
from grlm_hf.vllm.catalogs import Catalogs, Loaded
from grlm_hf.vllm.device import DeviceRows
from grlm_hf.vllm.scores import NO_BEAM

pytestmark = pytest.mark.vllm
EOS = toy_tokenizer().eos_token_id
VOCAB = len(toy_tokenizer()) + 3
SLOTS, LENGTH = 5, 96


class Shelf(Catalogs):
    """Catalogs that come from no file."""

    def __init__(self, loaded: dict[str, Loaded], constrain_all: bool):
        self.loaded, self.constrain_all, self.eos, self.folders = loaded, constrain_all, EOS, {}

    def get(self, name: str) -> Loaded | None:
        return self.loaded.get(name)


def shelf(rng: random.Random, constrain_all: bool = False) -> Shelf:
    tokenizer = toy_tokenizer()

    def loaded(name: str) -> Loaded:
        return Loaded(name, SearchIndex.build(random_catalog(rng), tokenizer), rng.choice(["vocabulary", "trie"]))

    return Shelf({name: loaded(name) for name in ("default", "other")}, constrain_all)


class Request:
    """A request, and by brute force what its next scores must be."""

    def __init__(self, rng: random.Random, catalogs: Shelf):
        self.rng = rng
        self.loaded = catalogs.get("default")
        extra: dict[str, Any] | None = {"grlm_constrain": True}
        assert self.loaded is not None
        kind = rng.choice(["plain", "all", "rules", "rules", "other", "missing", "beam"])
        if kind == "other":
            extra, self.loaded = {"grlm_catalog": "other"}, catalogs.get("other")
        ids = [i.item_id for i in self.loaded.index.catalog]  # type: ignore[union-attr]
        self.allowed = set(ids)
        if kind == "rules":
            some, few = rng.sample(ids, rng.randint(0, len(ids))), rng.sample(ids, rng.randint(0, 2) % (len(ids) + 1))
            extra = {"grlm_allow": [*some, "nobody"], "grlm_seen": few} if rng.random() < 0.5 else {"grlm_exclude": [*some, "nobody"]}
            self.allowed = set(some) - set(few) if "grlm_allow" in extra else self.allowed - set(some)
        if kind == "missing":
            extra, self.loaded = {"grlm_catalog": "none"}, None
        self.tail = kind == "beam" and catalogs.constrain_all
        if kind == "plain" or (kind == "beam" and not catalogs.constrain_all):
            extra = {"grlm_constrain": False} if catalogs.constrain_all else None
        if self.tail:
            extra = None
        self.on = kind not in ("plain", "beam") or self.tail
        self.params = SimpleNamespace(extra_args=extra, max_tokens=1 if self.tail else 24)
        self.paths: dict[tuple[int, ...], bool] = {}  # of the identifiers: whether one of its items is allowed
        if self.loaded is not None:
            catalog = self.loaded.index.catalog
            for tid, path in zip(catalog.identifiers, identifier_tokens(toy_tokenizer(), TERMS, catalog.identifiers), strict=True):
                self.paths[tuple(path)] = any(i.item_id in self.allowed for i in catalog.items_of(tid))
        newline = toy_tokenizer()("<|im_start|>assistant\n", add_special_tokens=False)["input_ids"]
        self.prompt = [rng.randrange(VOCAB) for _ in range(rng.randint(1, 12))] + newline
        self.begun: list[int] = []
        if self.tail:
            some_path = rng.choice(list(self.paths))
            if rng.random() < 0.5:
                self.prompt += rng.choice(list(self.paths))  # a whole item of the history, on a line of its own
            self.begun = list(some_path[: rng.randrange(len(some_path))])
            if rng.random() < 0.1:
                self.begun += [some_path[0]]
            self.prompt += self.begun
        self.output: list[int] = []
        self.computed = 0

    @property
    def text(self) -> list[int]:
        return self.prompt + self.output

    def expected(self, row: torch.Tensor) -> torch.Tensor:
        if not self.on:
            return row
        wanted = torch.full_like(row, -torch.inf)
        written = tuple(self.begun + self.output)
        depth = len(written)
        children: dict[int, bool] = {}
        ends = set()
        for path, allowed in self.paths.items():
            if path[:depth] == written and len(path) > depth:
                children[path[depth]] = children.get(path[depth], False) or allowed
                if len(path) == depth + 1:
                    ends.add(path[depth])
        over = list(children) if self.loaded is not None and self.loaded.objective == "trie" else slice(None)
        for token, allowed in children.items():
            if allowed:
                wanted[EOS if self.tail and token in ends else token] = row[token] - row[over].logsumexp(0)
        if wanted.max() == -torch.inf:
            wanted[EOS] = NO_BEAM if self.tail else 0.0
        return wanted

    def guess(self, proposed: list[int]) -> int:
        """What a draft model may propose next."""
        written = tuple(self.begun + self.output + proposed)
        goes_on = [path[len(written)] for path in self.paths if path[: len(written)] == written and len(path) > len(written)]
        return self.rng.choice([*goes_on, EOS] if self.rng.random() < 0.8 else [self.rng.randrange(VOCAB)])

    def next_token(self, row: torch.Tensor) -> int:
        if not self.on:
            return self.rng.randrange(VOCAB)
        if self.rng.random() < 0.05:
            return self.rng.randrange(VOCAB)  # as after a forced token: off the trie
        return self.rng.choice(row.isfinite().nonzero()[:, 0].tolist())


def same(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert torch.equal(found.isfinite(), wanted.isfinite())
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-5)


# --- V1 ------------------------------------------------------------------------------------------------------------------------------


def v1(catalogs: Catalogs) -> Any:
    from grlm_hf.vllm.processor import HostRows, TrieConstrainedLogitsProcessor

    processor = TrieConstrainedLogitsProcessor.__new__(TrieConstrainedLogitsProcessor)
    processor._rows = HostRows(catalogs)
    return processor


def test_v1_is_brute_force() -> None:
    for seed in range(10):
        run_v1(seed, constrain_all=seed % 2 == 0)


def run_v1(seed: int, constrain_all: bool) -> None:
    from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality

    rng, noise = random.Random(seed), torch.Generator().manual_seed(seed)
    catalogs = shelf(rng, constrain_all)
    first, second = v1(catalogs), v1(catalogs)  # by entry point and by name
    rows: list[Request | None] = []
    waiting = [Request(rng, catalogs) for _ in range(8)]
    for _ in range(30):
        removed, added, moved = [], [], []
        for i in range(len(rows)):
            if rng.random() < 0.15:
                request = rows[i]
                rows[i] = None
                removed.append(i)
                assert request is not None
                if rng.random() < 0.6:  # thrown out; taken up again with what it has written
                    request.output = list(request.output)
                    waiting.append(request)
        while waiting and rng.random() < 0.5 and sum(r is not None for r in rows) < SLOTS:
            request = waiting.pop(0)
            if None in rows:
                at = rows.index(None)
                rows[at] = request
                removed.remove(at)
            else:
                at = len(rows)
                rows.append(request)
            added.append((at, request.params, request.prompt, request.output))
        while None in rows:  # holes are filled from behind
            if rows[-1] is None:
                rows.pop()
                continue
            hole = rows.index(None)
            moved.append((len(rows) - 1, hole, MoveDirectionality.UNIDIRECTIONAL))
            rows[hole] = rows.pop()
        if len(rows) > 1 and rng.random() < 0.3:
            a, b = rng.sample(range(len(rows)), 2)
            rows[a], rows[b] = rows[b], rows[a]
            moved.append((a, b, MoveDirectionality.SWAP))
        update = BatchUpdate(len(rows), sorted(removed, reverse=True), added, moved) if removed or added or moved else None
        logits = torch.randn(len(rows), VOCAB, generator=noise) * 3
        before = logits.clone()
        for processor in (first, second):
            processor.update_state(update)
        for processor in (first, second):
            logits = processor.apply(logits)
        for request, row, old in zip(rows, logits, before, strict=True):
            assert request is not None
            same(row, request.expected(old))
            if not request.on:
                assert torch.equal(row, old)
            if rng.random() < 0.8:  # else its prompt is not yet read to the end, or the row is thrown away
                request.output.append(request.next_token(row))


def test_v1_with_tokens_that_are_not_known_yet() -> None:
    """Under asynchronous scheduling -1 stands for what has been sampled and not been copied."""
    from vllm.v1.sample.logits_processor import BatchUpdate

    rng = random.Random(1)
    catalogs = shelf(rng)
    processor, params = v1(catalogs), SimpleNamespace(extra_args={"grlm_constrain": True}, max_tokens=24)
    path = identifier_tokens(toy_tokenizer(), TERMS, catalogs.loaded["default"].index.catalog.identifiers)[0]
    output: list[int] = []
    processor.update_state(BatchUpdate(1, [], [(0, params, [5], output)], []))
    output += [path[0], -1]
    closed = processor.apply(torch.zeros(1, VOCAB))
    assert closed[0].isfinite().nonzero().tolist() == [[EOS]]
    output[1:] = [path[1]]  # it is known when it counts
    assert processor.apply(torch.zeros(1, VOCAB))[0, path[2]] > -np.inf
    del output[1:]  # tokens may be taken back
    assert processor.apply(torch.zeros(1, VOCAB))[0, path[1]] > -np.inf


# --- V2 ------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.v1.worker.gpu import buffer_utils

    monkeypatch.setattr(buffer_utils, "is_uva_available", lambda: False)


def states() -> tuple[Any, Any]:
    """vLLM's own state of requests, and what processors see of it."""
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcRequestState
    from vllm.v1.worker.gpu.states import RequestState

    own = RequestState(
        max_num_reqs=SLOTS,
        max_model_len=LENGTH,
        max_num_batched_tokens=64,
        num_speculative_steps=2,
        vocab_size=VOCAB,
        device=torch.device("cpu"),
    )
    return own, LogitsProcRequestState.from_request_state(own)


def flush(own: Any) -> None:
    """What ``RequestState.apply_staged_writes`` does; the kernel that it calls for some runs on GPUs only."""
    own.prompt_len.copy_to_uva()
    own.prefill_len.copy_to_uva()
    for tensor in (own.total_len, own.all_token_ids, own.num_computed_tokens):
        done = 0
        for row, start, end in zip(tensor._staged_write_indices, tensor._staged_write_starts, tensor._staged_write_cu_lens, strict=True):
            values = torch.tensor(tensor._staged_write_contents[done:end], dtype=tensor.dtype)
            flat = tensor.gpu.view(tensor.num_rows, -1)
            flat[row, start : start + len(values)] = values
            done = end
        tensor.clear_staged_writes()


@pytest.mark.usefixtures("no_pinned_memory")
@pytest.mark.parametrize("speculative", [False, True])
def test_v2_is_brute_force(speculative: bool) -> None:
    for seed in range(20):
        run_v2(seed, speculative)


def run_v2(seed: int, speculative: bool) -> None:
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext

    rng, noise = random.Random(seed), torch.Generator().manual_seed(seed)
    catalogs = shelf(rng, seed % 2 == 0)
    own, seen = states()
    first, second = DeviceRows(catalogs, seen, speculative), DeviceRows(catalogs, seen, speculative)
    assert not first.passive
    assert second.passive
    slots: dict[int, Request] = {}
    waiting = [Request(rng, catalogs) for _ in range(9)]
    for step in range(30):
        for slot in list(slots):
            if rng.random() < 0.12:
                own.remove_request(own.index_to_req_id[slot])
                request = slots.pop(slot)
                if rng.random() < 0.6 and request.loaded in (None, *catalogs.loaded.values()):
                    waiting.append(request)
        while waiting and len(slots) < SLOTS and rng.random() < 0.5:
            request = waiting.pop(0)
            own.add_request(f"{seed}.{step}.{len(slots)}.{rng.random()}", len(request.prompt), request.text, 0, 24)
            slot = max(own.index_to_req_id, key=lambda s: (s not in slots, s))
            assert slot not in slots
            slots[slot] = request
            request.computed = 0
            assert first.add(slot, request.params) is request.on
            assert second.add(slot, request.params) is False
        if seed % 5 == 0 and step == 15:  # a new version of a catalog
            catalogs.loaded["default"] = shelf(rng).loaded["default"]  # requests in a slot keep theirs
            waiting = [Request(rng, catalogs) for _ in waiting]
        flush(own)
        first.flush()
        second.flush()
        batch = [s for s in slots if rng.random() < 0.9]
        rng.shuffle(batch)
        if not batch:
            continue
        rows = []  # slot, place among the rows of its request, position, token, the proposed tokens before it
        lengths = []
        for slot in batch:
            request = slots[slot]
            left = len(request.text) - request.computed
            request.computed += left if rng.random() < 0.7 else rng.randint(1, left)  # a prompt may come in chunks
            at = request.computed - 1
            rows.append((slot, 0, at, request.text[at], []))
            proposed: list[int] = []
            if speculative and request.computed == len(request.text):
                for _ in range(rng.randint(0, 2)):
                    proposed.append(request.guess(proposed))
                    rows.append((slot, len(proposed), at + len(proposed), proposed[-1], list(proposed)))
            lengths.append(request.computed + len(proposed))
        column = [np.array([row[i] for row in rows]) for i in range(4)]
        ctx = LogitsContext(
            expanded_idx_mapping=torch.tensor(column[0], dtype=torch.int32),
            idx_mapping=torch.tensor(batch, dtype=torch.int32),
            idx_mapping_np=np.array(batch, np.int32),
            expanded_local_pos=torch.tensor(column[1], dtype=torch.int32),
            input_ids=torch.tensor(column[3], dtype=torch.int32),
            pos=torch.tensor(column[2]),
            seq_lens_upper_bound_np=np.array(lengths, np.int32),
        )
        logits = torch.randn(len(rows), VOCAB, generator=noise) * 3
        before = logits.clone()
        logits = second.apply(first.apply(logits, ctx), ctx)
        for (slot, place, at, _, proposed), row, old in zip(rows, logits, before, strict=True):
            request = slots[slot]
            if not request.on:
                assert torch.equal(row, old)
            elif at + 1 - place == len(request.text):  # else the prompt has not been read to its end, and nobody reads the row
                kept, request.output = request.output, request.output + proposed
                same(row, request.expected(old))
                request.output = kept
        for slot in batch:
            request = slots[slot]
            if request.computed == len(request.text) and len(request.text) < LENGTH - 4:
                of = next(i for i, r in enumerate(rows) if r[0] == slot)
                token = request.next_token(request.expected(before[of]))
                own.all_token_ids.gpu[slot, len(request.text)] = token
                request.output = [*request.output, token]
                own.total_len.gpu[slot] = len(request.text)


@pytest.mark.usefixtures("no_pinned_memory")
def test_rules_of_slots_are_kept_no_longer_than_needed() -> None:
    rng = random.Random(3)
    catalogs = shelf(rng)
    _, seen = states()
    rows = DeviceRows(catalogs, seen)
    ids = [i.item_id for i in catalogs.loaded["default"].index.catalog]
    for i in range(60):
        rows.add(i % SLOTS, SimpleNamespace(extra_args={"grlm_exclude": [ids[i % len(ids)], f"x{i}"]}, max_tokens=9))
        rows.flush()
    (trie,) = rows._tries.values()
    assert len(trie.allowed) <= 2 * (SLOTS + 1)
    assert sorted(slot.row for slot in rows._slots if slot) == list(range(1, SLOTS + 1))
    for slot in range(SLOTS):
        rows.add(slot, SimpleNamespace(extra_args=None, max_tokens=9))
    del trie
    assert not rows._tries


def test_one_class_for_both_loaders() -> None:
    from vllm.v1.sample.logits_processor import LogitsProcessor, _load_custom_logitsprocs
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as LogitsProcessorV2
    from vllm.v1.worker.gpu.sample.logits_processor.loader import _load_v2_logitsprocs

    import grlm_hf.vllm

    ours = grlm_hf.vllm.TrieConstrainedLogitsProcessor
    assert issubclass(ours, LogitsProcessor)
    assert issubclass(ours, LogitsProcessorV2)
    named = ["grlm_hf.vllm:TrieConstrainedLogitsProcessor"]
    assert _load_custom_logitsprocs(named) == _load_v2_logitsprocs(named) == [ours, ours]


@pytest.mark.usefixtures("no_pinned_memory")
def test_the_constructor_tells_the_interfaces_apart() -> None:
    from grlm_hf.vllm import TrieConstrainedLogitsProcessor
    from grlm_hf.vllm.processor import HostRows

    model = SimpleNamespace(
        model="/nowhere/at/all",
        revision=None,
        tokenizer="",
        logits_processors=None,
        get_vocab_size=lambda: 9,
        hf_config=SimpleNamespace(eos_token_id=EOS),
    )
    config = SimpleNamespace(
        model_config=model, additional_config={}, speculative_config=None, scheduler_config=SimpleNamespace(async_scheduling=True)
    )
    host = TrieConstrainedLogitsProcessor(config, torch.device("cpu"), False)
    assert isinstance(host._rows, HostRows)
    assert not host.is_argmax_invariant()
    _own, seen = states()
    device = TrieConstrainedLogitsProcessor(config, seen)
    assert isinstance(device._rows, DeviceRows)
    # a model without a catalog: plain requests cost nothing, and one that asks for a constraint may only end
    assert device.add_request(0, SimpleNamespace(extra_args=None)) is False
    assert device.add_request(1, SimpleNamespace(extra_args={"grlm_constrain": True})) is True
    device.apply_staged_writes()
