"""``pipeline("recommendation")``: what `recommend` finds, as dictionaries; with and without grlm_hf imported first."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from toys import toy_grlm
from transformers import pipeline

from grlm_hf import GRLMForRecommendation
from grlm_hf.pipeline import RecommendationPipeline

HISTORIES = [["i20", "i16"], ["i14"], ["i9", "i11", "i20"], ["i13"]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("pipeline") / "checkpoint"
    toy_grlm().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def pipe(checkpoint: str) -> RecommendationPipeline:
    return pipeline("recommendation", model=checkpoint, device="cpu")  # type: ignore[call-overload]


@pytest.fixture(scope="module")
def grlm(checkpoint: str) -> GRLMForRecommendation:
    return GRLMForRecommendation.from_pretrained(checkpoint)


def plain(found: Any) -> list[dict[str, Any]]:
    return [r.to_dict() for r in found]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"k": 3, "exclude_seen": True},
        {"k": 4, "allow": ["i19", "i13"], "num_beams": 8},
        {"k": 2, "banned_terms": ["tent"], "prior": {"i13": 9.0}, "prior_weight": 0.5, "shared": "equal", "exact": True},
        {"k": 1, "exclude": {"i20"}, "length_penalty": 0.5, "edge_wise": True, "batch_size": 2},
    ],
)
def test_it_finds_what_recommend_finds(pipe: RecommendationPipeline, grlm: GRLMForRecommendation, options: dict[str, Any]) -> None:
    wanted = [plain(found) for found in grlm.recommend(HISTORIES, **options)]
    assert pipe(HISTORIES, **options) == wanted
    assert pipe(HISTORIES[0], **options) == plain(grlm.recommend(HISTORIES[0], **options))
    streamed = list(pipe((h for h in HISTORIES), **options))  # its batches are others, and so is the rounding
    assert [[r["item_id"] for r in found] for found in streamed] == [[r["item_id"] for r in found] for found in wanted]
    assert json.loads(json.dumps(pipe(HISTORIES, **options))) == wanted


def test_no_answer_is_an_empty_list(pipe: RecommendationPipeline) -> None:
    terms = {term for tid in pipe.grlm.catalog.term_ids for term in tid}
    assert pipe(["i20"], banned_terms=terms) == []
    assert pipe(HISTORIES, banned_terms=terms) == [[], [], [], []]


def test_defaults_of_all_calls(checkpoint: str, grlm: GRLMForRecommendation) -> None:
    pipe = pipeline("recommendation", model=checkpoint, device="cpu", k=2, exclude_seen=True)  # type: ignore[call-overload]
    assert pipe(["i20"]) == plain(grlm.recommend(["i20"], 2, exclude_seen=True))
    assert pipe(["i20"], k=3) == plain(grlm.recommend(["i20"], 3, exclude_seen=True))


def test_a_generator_is_read_as_answers_are_asked_for(pipe: RecommendationPipeline) -> None:
    read: list[int] = []

    def histories() -> Iterator[list[str]]:
        for n in range(100):
            read.append(n)
            yield ["i20"]

    answers = pipe(histories(), k=1, batch_size=4)
    assert read == []
    next(answers)
    assert read == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("history", "options", "error", "message"),
    [
        ([], {}, ValueError, "The history is empty"),
        ([[]], {}, ValueError, "The history is empty"),
        ("i20", {}, ValueError, "history is the string 'i20'"),
        (["i2O"], {}, ValueError, "Item 'i2O' is not in the catalog"),
        (["i20"], {"k": 0}, ValueError, "k=0; expected 1 to 12"),
        (["i20"], {"num_beam": 3}, TypeError, "no option 'num_beam'. Did you mean 'num_beams'?"),
        (["i20"], {"temperature": 0.7}, TypeError, "no option 'temperature'. Expected one of: k, rules"),
    ],
)
def test_mistakes(pipe: RecommendationPipeline, history: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message.replace("(", r"\(").replace("?", r"\?")):
        pipe(history, **options)


def test_a_plain_language_model_is_refused(tmp_path: Path) -> None:
    grlm = toy_grlm()
    grlm.model.save_pretrained(tmp_path)
    grlm.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"holds no catalog\.parquet: it is not a GRLM checkpoint"):
        pipeline("recommendation", model=str(tmp_path), device="cpu")  # type: ignore[call-overload]


def test_saving_a_pipeline_saves_the_checkpoint(pipe: RecommendationPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "copy")
    again = GRLMForRecommendation.from_pretrained(tmp_path / "copy")
    assert plain(again.recommend(["i20"], 3)) == pipe(["i20"], k=3)


def test_text_generation_still_works(checkpoint: str) -> None:
    writer = pipeline("text-generation", model=checkpoint, device="cpu")
    (answer,) = writer([{"role": "user", "content": "hello"}], max_new_tokens=3)
    assert [turn["role"] for turn in answer["generated_text"]] == ["user", "assistant"]  # type: ignore[index]


def test_a_repository_recommends(hub: Any, grlm: GRLMForRecommendation, pipe: RecommendationPipeline) -> None:
    grlm.push_to_hub("org/pipeline")
    assert pipeline("recommendation", model="org/pipeline", device="cpu")(["i20", "i16"], k=3) == pipe(["i20", "i16"], k=3)  # type: ignore[call-overload]
