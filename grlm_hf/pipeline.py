"""``pipeline("recommendation")`` of transformers: importing this module registers the task.

from transformers import pipeline
import grlm_hf.pipeline

recommend = pipeline("recommendation", model="ORG/grlm-beauty")
recommend(["B001", "B002"], k=5)
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from types import GeneratorType
from typing import Any

from torch.utils.data import Dataset
from transformers import AutoModelForCausalLM, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from grlm_hf.decoding.rules import RULES, SEARCH
from grlm_hf.files import did_you_mean
from grlm_hf.modeling.recommender import GRLMForRecommendation

TASK = "recommendation"
_BATCH = 32

_OPTIONS = ["k", "rules", "search", "batch_size", "progress", *RULES, *SEARCH]


class RecommendationPipeline(Pipeline):
    """Histories → recommended items as plain dictionaries, by `GRLMForRecommendation.recommend`.

    Made by ``pipeline("recommendation", model=repo)``, from a folder or Hub id; its attribute `grlm` is the whole recommender. All options
    of `recommend` may be given to a call, or to ``pipeline`` as defaults of all calls; what ``exact=True`` proved, only `recommend`
    returns.

    Raises:
        ValueError: the model was not loaded from a GRLM checkpoint.
        TypeError: an option that `recommend` does not have.
    """

    _load_tokenizer: Any = False  # that of the checkpoint comes with the recommender
    _load_processor: Any = False
    _load_image_processor: Any = False
    _load_video_processor: Any = False
    _load_feature_extractor: Any = False

    def __init__(self, model: Any, **kwargs: Any):
        super().__init__(model=model, **kwargs)
        config = model.config
        where = getattr(model, "name_or_path", "") or getattr(config, "name_or_path", "")
        if not where:
            raise ValueError(
                'The model does not say where it was loaded from; give its folder or Hub id: pipeline("recommendation", REPO).'
            )
        self.grlm = GRLMForRecommendation.from_pretrained(where, revision=getattr(config, "_commit_hash", None), model=self.model)
        self.tokenizer = self.grlm.tokenizer

    def __call__(self, inputs: Any, k: int | None = None, **options: Any) -> Any:  # type: ignore[override]
        """Recommends after one history or several.

        Args:
            inputs: item ids, oldest first; or a list of histories; or a generator or torch dataset of histories, which is read as the
                answers are read.
            k: how many items, by default 10.
            options: of `GRLMForRecommendation.recommend`.

        Returns:
            A list of dictionaries, best first, with the fields of `grlm_hf.modeling.results.Recommendation` (`term_id` is a list); for
            a list of histories a list of such lists; for a generator or dataset an iterator of them.

        Raises:
            ValueError: as `recommend`.
            TypeError: an option that `recommend` does not have.
        """
        options = options if k is None else {**options, "k": k}
        options.pop("num_workers", None)  # there are none
        size = options.pop("batch_size", None) or self._batch_size or _BATCH  # which the base class takes for its own
        if isinstance(inputs, GeneratorType | Dataset):
            self._sanitize_parameters(**options)  # an unknown option is an error now, not with the first answer
            return self._answers(inputs, size, options)
        # One input to the base class, whatever it holds: the search has batches of its own.
        return super().__call__({"history": inputs, "batch_size": size}, **options)

    def _answers(self, histories: Any, size: int, options: dict[str, Any]) -> Iterator[list[dict[str, Any]]]:
        rows = iter(histories) if isinstance(histories, GeneratorType) else (histories[i] for i in range(len(histories)))
        while batch := list(itertools.islice(rows, size)):
            yield from super().__call__({"history": batch, "batch_size": size}, **options)

    def _sanitize_parameters(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        for name in options:
            if name not in _OPTIONS:
                hint = did_you_mean(name, _OPTIONS, f"Expected one of: {', '.join(_OPTIONS)}.")
                raise TypeError(f"The recommendation pipeline has no option {name!r}. {hint}")
        return {}, options, {}

    def preprocess(self, input_: Any, **_: Any) -> dict[str, Any]:
        return input_

    def _forward(self, input_tensors: dict[str, Any], **options: Any) -> Any:
        return self.grlm.recommend(**input_tensors, **options)

    def postprocess(self, model_outputs: Any, **_: Any) -> Any:
        def plain(found: Any) -> list[dict[str, Any]]:
            return [r.to_dict() for r in found]

        several = bool(model_outputs) and isinstance(model_outputs[0], list)
        return [plain(found) for found in model_outputs] if several else plain(model_outputs)

    def save_pretrained(self, save_directory: str | os.PathLike[str], **_: Any) -> None:
        """Writes the whole checkpoint, as `GRLMForRecommendation.save_pretrained`."""
        self.grlm.save_pretrained(os.fspath(save_directory))


if TASK not in PIPELINE_REGISTRY.get_supported_tasks():  # else it would say so on each import of a notebook
    PIPELINE_REGISTRY.register_pipeline(TASK, RecommendationPipeline, pt_model=AutoModelForCausalLM, type="text")
