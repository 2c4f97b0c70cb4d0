"""The constraint in real engines. Runs in vLLM's own environment: ``make test-vllm``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import TERM_IDS, toy_catalog, toy_grlm

from grlm_hf import TrieConstrainedLogitsProcessor as TransformersProcessor
from grlm_hf.identifiers.terms import TERMS
from grlm_hf.tokens import identifier_tokens

pytestmark = pytest.mark.vllm
IDS = [i.item_id for i in toy_catalog()]
LINES = {TERMS.line(tid): tid for tid in TERM_IDS}
OURS = "grlm_hf.vllm:TrieConstrainedLogitsProcessor"
GRLM = {"grlm_constrain": True}
CHAT = "<|im_start|>user\nHello, tell me about tents!<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint; one that is none of ours, with the same weights; and a catalog alone."""
    work = tmp_path_factory.mktemp("processor")
    grlm = toy_grlm()
    grlm.save_pretrained(work / "checkpoint")
    grlm.model.save_pretrained(work / "plain")
    grlm.tokenizer.save_pretrained(work / "plain")
    toy_catalog().remove(IDS[1:]).save_pretrained(work / "single")
    return {name: work / name for name in ("checkpoint", "plain", "single")}


@pytest.fixture(scope="module")
def start(folders: dict[str, Path], kept: list[Any]) -> Iterator[Callable[..., Any]]:
    """Starts an engine on the checkpoint."""
    patch = pytest.MonkeyPatch()
    patch.setenv("GRLM_CATALOGS", f"single={folders['single']}")

    def start(model: str = "checkpoint", **options: Any) -> Any:
        from vllm import LLM

        usual = {"dtype": "float32", "enforce_eager": True, "max_model_len": 512, "max_logprobs": 64, "num_gpu_blocks_override": 256}
        kept.append(LLM(str(folders[model]), **usual | options))
        return kept[-1]

    yield start
    patch.undo()


@pytest.fixture(scope="module")
def engine(start: Callable[..., Any]) -> Any:
    """Both by entry point and by name, as a user may well do; prefix caching on."""
    assert [e.value for e in entry_points(group="vllm.logits_processors")].count(OURS) == 1
    return start(logits_processors=[OURS], logprobs_mode="processed_logits")


def prompts(n: int = 6) -> list[dict[str, Any]]:
    grlm = toy_grlm()
    return [{"prompt_token_ids": grlm.prompt_tokens(IDS[i : i + 3])[0].tolist()} for i in range(n)]


def generate(engine: Any, requests: Any, *, extra: Any = GRLM, max_tokens: int = 64, **options: Any) -> list[Any]:
    from vllm import SamplingParams

    extras = extra if isinstance(extra, list) else [extra] * len(requests)
    params = [SamplingParams(max_tokens=max_tokens, extra_args=e, **{"temperature": 0} | options) for e in extras]
    return engine.generate(requests, params, use_tqdm=False)


def tokens(outputs: list[Any]) -> list[list[int]]:
    return [list(o.token_ids) for output in outputs for o in output.outputs]


def items(engine: Any, outputs: list[Any]) -> list[Any]:
    """The Term ID of each text, which must be one whole line of the catalog and the end of the text."""
    found = []
    eos = engine.get_tokenizer().eos_token_id
    for output in outputs:
        for one in output.outputs:
            assert one.text in LINES
            assert one.token_ids[-1] == eos
            assert one.finish_reason == "stop"
            found.append(LINES[one.text])
    return found


def greedy_of_transformers(history: list[str]) -> list[int]:
    grlm = toy_grlm()
    prompt = grlm.prompt_tokens(history)
    with torch.no_grad():
        out = grlm.model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=64,
            do_sample=False,
            logits_processor=[TransformersProcessor(grlm.trie)],
        )
    return out[0, prompt.shape[1] :].tolist()


def test_greedy_text_is_that_of_transformers(engine: Any) -> None:
    outputs = generate(engine, prompts(), logprobs=0)
    assert tokens(outputs) == [greedy_of_transformers(IDS[i : i + 3]) for i in range(6)]
    grlm = toy_grlm()
    for i, (output, tid) in enumerate(zip(outputs, items(engine, outputs), strict=True)):
        score = sum(step[token].logprob for step, token in zip(output.outputs[0].logprobs, output.outputs[0].token_ids, strict=True))
        (found,) = (
            r
            for r in grlm.recommend(IDS[i : i + 3], len(IDS))[:12]
            if r.term_id == tid and r.item_id == min(x.item_id for x in grlm.catalog.items_of(tid))
        )
        assert score == pytest.approx(found.score, abs=1e-3)


def test_plain_requests_in_the_same_batch_are_left_as_they_are(engine: Any, start: Callable[..., Any]) -> None:
    mixed = [request for pair in zip(prompts(), [CHAT + str(i) for i in range(6)], strict=True) for request in pair]
    outputs = generate(engine, mixed, extra=[GRLM, None] * 6)
    items(engine, outputs[::2])
    without = start("plain")  # no checkpoint of ours: the entry point's processor does nothing
    assert tokens(outputs[1::2]) == tokens(generate(without, mixed[1::2], extra=None))
    free = generate(without, mixed[::2], extra=None)
    assert tokens(generate(engine, mixed[::2], extra={"grlm_constrain": False})) == tokens(free) != tokens(outputs[::2])
    # asked for a constraint that it cannot keep, it writes nothing; a named catalog it has
    assert {o.outputs[0].text for o in generate(without, mixed[::2])} == {""}
    assert items(without, generate(without, mixed[::2], extra={"grlm_catalog": "single"})) == [TERM_IDS[0]] * 6


def test_samples_are_items(engine: Any) -> None:
    outputs = generate(engine, prompts(3), n=8, temperature=1.5, seed=1)
    found = items(engine, outputs)
    assert len(found) == 24
    assert len(set(found)) > 3
    assert items(engine, generate(engine, prompts(3), n=4, temperature=1.0, top_k=5, top_p=0.9, min_p=0.05, repetition_penalty=1.2))


def test_rules_and_catalogs_of_requests(engine: Any) -> None:
    asked: list[dict[str, Any]] = [
        {"grlm_allow": [IDS[3], IDS[9], "nobody"]},
        {"grlm_exclude": IDS[:6], "grlm_seen": [IDS[8]]},
        {"grlm_ban_terms": ["camping", "Steel"]},
        {"grlm_catalog": "single"},
        {"grlm_allow": ["nobody"]},
        {"grlm_domain": "nowhere"},
    ]
    allowed = [
        {TERM_IDS[3], TERM_IDS[9]},
        {tid for i, tid in enumerate(TERM_IDS) if i >= 6 and i != 8},
        {tid for tid in TERM_IDS if "camping" not in tid and "steel" not in tid},
        {TERM_IDS[0]},
    ]
    outputs = generate(engine, prompts(1) * 6, extra=asked, n=6, temperature=2.0, seed=3)
    for output, may in zip(outputs[:4], allowed, strict=True):
        assert set(items(engine, [output])) <= may
    assert {o.text for output in outputs[4:] for o in output.outputs} == {""}
    assert all(len(o.token_ids) == 1 for output in outputs[4:] for o in output.outputs)


def test_other_restrictions_never_open_the_constraint(engine: Any) -> None:
    comma = engine.get_tokenizer()("x", add_special_tokens=False)["input_ids"]
    outputs = generate(engine, prompts(2), allowed_token_ids=comma)  # no identifier begins so
    assert [o.outputs[0].text for o in outputs] == ["", ""]
    assert items(engine, generate(engine, prompts(2), min_tokens=30))  # an identifier that is complete ends all the same
    assert items(engine, generate(engine, prompts(2), logit_bias={comma[0]: 100.0}))


def test_bad_arguments_are_refused_and_harm_nobody(engine: Any) -> None:
    from vllm import SamplingParams
    from vllm.exceptions import VLLMValidationError

    for extra in ({"grlm_allowed": ["x"]}, {"grlm_catalog": "other"}, {"grlm_allow": "x"}, {"grlm_seen": ["x"] * 100_001}):
        with pytest.raises(VLLMValidationError, match="grlm_"):
            engine.generate(prompts(2), [SamplingParams(extra_args=GRLM), SamplingParams(extra_args=extra)], use_tqdm=False)
    assert tokens(generate(engine, prompts(1))) == [greedy_of_transformers(IDS[:3])]


@pytest.mark.parametrize("caching", [False, True])
def test_preemption_and_prompts_in_chunks(start: Callable[..., Any], caching: bool) -> None:
    """A cache too small for all requests: some are thrown out in the middle of an identifier, and go on later."""
    engine = start(
        num_gpu_blocks_override=9,
        block_size=32,
        max_model_len=256,
        max_num_batched_tokens=24,
        max_num_seqs=8,
        enable_prefix_caching=caching,
        enable_chunked_prefill=True,
        disable_log_stats=False,
    )
    from vllm import SamplingParams

    plain = [SamplingParams(max_tokens=40, temperature=0, ignore_eos=True)] * 2  # they grow, and who came last is thrown out
    held = [SamplingParams(max_tokens=64, temperature=0, extra_args=GRLM)] * 6
    outputs = engine.generate(["A" + CHAT, "B" + CHAT, *prompts(6)], [*plain, *held], use_tqdm=False)
    assert tokens(outputs[2:]) == [greedy_of_transformers(IDS[i : i + 3]) for i in range(6)]
    (preemptions,) = (m.value for m in engine.get_metrics() if m.name == "vllm:num_preemptions")
    assert preemptions > 0
    assert max(len(p["prompt_token_ids"]) for p in prompts(6)) > 24


def test_vllms_own_beam_search(start: Callable[..., Any]) -> None:
    from vllm.sampling_params import BeamSearchParams

    width, grlm = 6, toy_grlm()
    engine = start(
        logprobs_mode="processed_logits",
        max_logprobs=2 * width,
        additional_config={"grlm": {"constrain": "always"}},
        logits_processors=[OURS],
    )
    paths = dict(zip(grlm.catalog.identifiers, identifier_tokens(grlm.tokenizer, TERMS, grlm.catalog.identifiers), strict=True))
    outputs = engine.beam_search(prompts(4), BeamSearchParams(beam_width=width, max_tokens=grlm.trie.depth))
    for i, (prompt, output) in enumerate(zip(prompts(4), outputs, strict=True)):
        expected = {r.term_id: r.score for r in grlm.recommend(IDS[i : i + 3], len(IDS))}
        found = {}
        for beam in output.sequences:
            written = beam.tokens[len(prompt["prompt_token_ids"]) :]
            assert written[-1] == grlm.tokenizer.eos_token_id
            (tid,) = (tid for tid, path in paths.items() if path[:-1] == written[:-1])  # EOS stands for the last token
            assert math.isclose(beam.cum_logprob, expected[tid], abs_tol=1e-3)
            found[tid] = beam.cum_logprob
        assert len(found) == width
        assert list(found.values()) == sorted(found.values(), reverse=True)
    # what says no is free there, and what says nothing is an item
    items(engine, generate(engine, prompts(2), extra=None))
    (free,) = generate(engine, [CHAT], extra={"grlm_constrain": False}, max_tokens=8)
    assert not any(line.startswith(free.outputs[0].text[:3]) for line in LINES)
