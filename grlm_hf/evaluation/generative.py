"""A GRLM checkpoint as methods of the evaluator: held to the trie, or writing freely and grounded afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from grlm_hf.decoding.grounding import Grounder
from grlm_hf.evaluation.config import RerankConfig
from grlm_hf.evaluation.evaluate import RATES_AT
from grlm_hf.evaluation.metrics import DEPTH
from grlm_hf.evaluation.rankings import Method, Rankings
from grlm_hf.evaluation.schema import Report
from grlm_hf.evaluation.verdict import uses_language_model
from grlm_hf.identifiers.scheme import Identifier
from grlm_hf.modeling.recommender import GRLMForRecommendation
from grlm_hf.priors.fused import Fused


def constrained(
    grlm: GRLMForRecommendation,
    exclude_seen: bool,
    num_beams: int | None = None,
    batch_size: int = 64,
    prior: Fused | None = None,
    depth: int = DEPTH,
) -> Method:
    """`GRLMForRecommendation.recommend` of `depth` items, with a prior if one is given.

    It has no direct hits to count: whatever the trie lets it write is an identifier of the catalog.
    """
    prior = prior.following(grlm.catalog) if prior else None

    def method(histories: Sequence[Sequence[str]], domain: str | None = None) -> Rankings:
        k = min(depth, len(grlm.catalog))
        found = grlm.recommend(
            histories, k, exclude_seen=exclude_seen, domain=domain, num_beams=num_beams, batch_size=batch_size,
            **(prior.beside(histories) if prior else {"prior": "none"}),
        )  # fmt: skip
        return Rankings([[r.item_id for r in one] for one in found], by_term_id=prior is None)

    return method


def reranked(grlm: GRLMForRecommendation, retriever: Method, candidates: int, batch_size: int = 64) -> Method:
    """The retriever's first `candidates` items in the order of the language model's own log-probabilities, and the others after them, so
    that every user counts. Items alike for the model keep the retriever's order."""

    def method(histories: Sequence[Sequence[str]], **domain: str) -> Rankings:
        found = retriever(histories, **domain).items
        heads = [[item for item in ranking[:candidates] if item is not None] for ranking in found]
        asked = [history for history, head in zip(histories, heads, strict=True) for _ in head]
        scores = grlm.score(asked, [item for head in heads for item in head], batch_size=batch_size)
        items = []
        for ranking, head, score in zip(found, heads, np.split(scores, np.cumsum([*map(len, heads)])[:-1]), strict=True):
            items.append([*(head[n] for n in np.argsort(-score, kind="stable")), *ranking[candidates:]])
        return Rankings(items)

    return method


def second_stage(
    config: RerankConfig, grlm: GRLMForRecommendation, methods: Mapping[str, Method], batch_size: int = 64
) -> dict[str, Method]:
    """`reranked` by its name in a report; {} where `config` names no retriever. Raises ``ValueError`` for one that is none of `methods`."""
    known = [name for name in methods if not uses_language_model(name)]
    if not config.retriever:
        return {}
    if config.retriever not in known:
        raise ValueError(f"evaluate.rerank.retriever is {config.retriever!r}; expected a method without the language model: {known}.")
    return {f"rerank({config.retriever})": reranked(grlm, methods[config.retriever], config.candidates, batch_size)}


def free(grlm: GRLMForRecommendation, exclude_seen: bool, form: str = "paper", num_beams: int = 20) -> Method:
    """Unconstrained beam search, then Elastic Identifier Grounding: what GRLM's own evaluation does. For measuring; slow.

    A direct hit is a text among the first ten that is an identifier of the candidates as it was written.

    Raises:
        ValueError: the model was trained within the trie, or an engine keeps it.
    """
    if grlm.config.objective != "vocabulary":
        raise ValueError(
            "Free writing (evaluate.free_users) needs a checkpoint with objective 'vocabulary'; one trained within the trie never learnt "
            "to write freely."
        )
    whole = Grounder(grlm.catalog, form)

    def method(histories: Sequence[Sequence[str]], domain: str | None = None) -> Rankings:
        items, direct = [], []
        grounder = whole if domain is None else Grounder(grlm.catalog.domain(domain), form)
        for history in histories:
            written = write_freely(grlm, history, num_beams)
            found = [grounder.ground(terms) if terms else None for terms in written]
            seen = set(history) if exclude_seen else set()
            ranking: list[str | None] = []
            for grounded in found:
                new = [i.item_id for i in grounded.items if i.item_id not in seen] if grounded else [None]
                ranking += [i for i in new if i is None or i not in ranking]
            items.append(ranking[:DEPTH])
            direct.append(sum(g is not None and g.exact for g in found[:RATES_AT]) / RATES_AT)
        return Rankings(items, direct, by_term_id=True)

    return method


@torch.inference_mode()
def write_freely(
    grlm: GRLMForRecommendation, history: Sequence[str], num_beams: int = 20, max_new_tokens: int = 48
) -> list[Identifier | None]:
    """What the model writes without the trie: `num_beams` texts, best first, each parsed as an identifier or ``None``.

    For measuring and for grounding (`grlm_hf.decoding.grounding`); a text may name no item. Raises ``ValueError`` where an engine keeps the
    model.
    """
    model, prompt = grlm.language_model("write_freely()"), grlm.prompt_tokens(history)
    out = model.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        num_beams=num_beams,
        num_return_sequences=num_beams,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        length_penalty=0.0,
        stop_strings=["\n"],
        tokenizer=grlm.tokenizer,
    )
    texts = grlm.tokenizer.batch_decode(out[:, prompt.shape[1] :], skip_special_tokens=True)
    return [grlm.catalog.scheme.parse(text) for text in texts]


def with_first_users(report: Report, found: Report, **stated: str) -> Report:
    """The report with the figures of methods that were measured on its first users.

    Args:
        stated: name of the protocol's entry → what it says after the number of users.
    """
    domains = dict(report.domains)
    for name, part in found.domains.items():
        domains[name] = replace(domains[name], methods={**domains[name].methods, **part.methods})
    notes: dict[str, Any] = {name: f"first {found.protocol.users} users; {text}" for name, text in stated.items()}
    return replace(report, protocol=replace(report.protocol, **notes), methods={**report.methods, **found.methods}, domains=domains)
