"""Dataset repository and a teacher → the teacher's answers to the questions of the training (`grlm_hf.training.label_store`)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.repository import dataset_facts, load_table, train_histories
from grlm_hf.files import local_paths, read_json
from grlm_hf.layout import CONFIG_FILE, LABELS_FILE
from grlm_hf.stages.priors import TUNING_FILE, UNSEEN
from grlm_hf.tensors import kind_of
from grlm_hf.training.config import DistillConfig
from grlm_hf.training.label_store import Ask, LabelStore, asked, make_labels

if TYPE_CHECKING:
    from grlm_hf.modeling.recommender import GRLMForRecommendation
    from grlm_hf.priors.scores import Scorer


def make_teacher(
    datasets: str | Path, output: str | Path, config: DistillConfig, *, priors: str | Path | None = None, work: str | Path | None = None
) -> LabelStore:
    """Asks the teacher of `config` every question of the training on `datasets`, and writes the answers to the file `output`.

    Args:
        priors: folder of `make_priors`, for a teacher that is named by its methods.
        work: keeps finished parts, so that an interrupted call goes on; by default beside `output`.

    Raises:
        ValueError: a teacher that does not exist, or that knows none of the items; a combination without chosen weights; a dataset without
            histories to answer.
    """
    from grlm_hf.evaluation.unseen import known_catalog
    from grlm_hf.training.distill import questions_of
    from grlm_hf.training.labels import taught_items

    catalog = Catalog.from_pretrained(datasets)
    if dataset_facts(datasets)["split"] == UNSEEN:
        catalog = known_catalog(catalog, train_histories(datasets))
    questions = questions_of(taught_items(load_table(datasets, "sft", "train"), catalog), catalog)
    if not questions:
        raise ValueError(f"{datasets} has no examples with histories, so a teacher has nothing to answer; set train.distill.weight=0.")
    ids, ask = _teacher(config, Path(priors) if priors else None)
    if not any(item in catalog for item in ids):
        raise ValueError(f"The teacher {config.teacher!r} knows none of the catalog's items: it was trained on another catalog.")
    labels = make_labels(ask, ids, questions, work or Path(output).with_name(f".{Path(output).name}-parts"))
    labels.save(output)
    return labels


def given_answers(config: DistillConfig) -> Path | None:
    """The file of answers that `config` names in place of a teacher, if it does."""
    path = Path(config.teacher)
    named = path.suffix == Path(LABELS_FILE).suffix or (path.is_file() and kind_of(path) == LabelStore.kind)
    return path if config.weight and named else None


def check_teacher(config: DistillConfig) -> None:
    """Raises ``ValueError`` for a teacher that is neither of the recipe nor in a file or folder; before any stage runs."""
    if config.weight and not config.of_recipe and not Path(config.teacher).exists():
        raise ValueError(
            f"train.distill.teacher is {config.teacher!r}, and there is no such file or folder; expected some of priors.methods joined by "
            f"+, the folder of a checkpoint or prior, a file of a recommender, or a file {LABELS_FILE}."
        )


def teacher_files(config: DistillConfig, priors: Path) -> list[Path]:
    """The files that the answers depend on."""
    return [priors] if config.of_recipe else local_paths(config.teacher)


def _teacher(config: DistillConfig, priors: Path | None) -> tuple[Sequence[str], Ask]:
    """The items that a teacher rates, and how it is asked."""
    from grlm_hf.modeling.recommender import GRLMForRecommendation
    from grlm_hf.priors.fused import Fused, load_scorer

    scorer: Scorer
    if names := config.of_recipe:
        if priors is None:
            raise ValueError(f"train.distill.teacher is {config.teacher!r}, and there are no priors here; expected a file or folder.")
        fused = Fused.load(priors)
        if strange := [name for name in names if name not in fused.components]:
            raise ValueError(f"train.distill.teacher has {strange[0]!r}; {priors} has {', '.join(fused.components)}.")
        if len(names) == 1:
            scorer = fused.components[names[0]][0]
        else:
            combinations = read_json(priors / TUNING_FILE)["combinations"]
            if config.teacher not in combinations:
                raise ValueError(
                    f"train.distill.teacher is {config.teacher!r}, which has no chosen weights; add it to priors.combine. "
                    f"Found: {', '.join(combinations) or 'none'}."
                )
            scorer = fused.stated(combinations[config.teacher])
    elif (Path(config.teacher) / CONFIG_FILE).is_file():
        grlm = GRLMForRecommendation.from_pretrained(config.teacher)
        if grlm.config.language_model:
            grlm.config.refuse_evidence("Distillation")
            return [item.item_id for item in grlm.catalog], partial(_ask_checkpoint, grlm, config)
        assert grlm.prior is not None
        scorer = grlm.prior
    else:
        scorer = load_scorer(config.teacher)
    return scorer.item_ids, asked(scorer, config.top, config.temperature)


def _ask_checkpoint(
    grlm: GRLMForRecommendation, config: DistillConfig, histories: Sequence[Sequence[str]]
) -> tuple[np.ndarray, np.ndarray]:
    """The answers of a language model: its own search, without any prior, as wide as the number of kept items."""
    top = min(config.top, len(grlm.catalog))
    items, p = np.zeros((len(histories), top), np.int32), np.zeros((len(histories), top), np.float64)
    lists = grlm.recommend(histories, top, num_beams=top, exclude_seen=False, prior="none", unknown_items="skip")
    for row, found in enumerate(lists):
        items[row, : len(found)] = [grlm.catalog.position(r.item_id) for r in found]
        scores = np.array([r.log_prob for r in found])
        p[row, : len(found)] = np.exp(scores / config.temperature)
        if config.temperature != 1:  # of the found items alone, as the others are unknown
            p[row] /= p[row].sum()
    return items, p
