"""The card of a recommender without a language model."""

from __future__ import annotations

from pathlib import Path

from grlm_hf.data.catalog import Catalog
from grlm_hf.evaluation.report.tables import protocol_note
from grlm_hf.evaluation.schema import Report
from grlm_hf.evaluation.verdict import stated
from grlm_hf.files import read_json, write_text
from grlm_hf.layout import CARD, CONFIG_FILE, PRIOR_FOLDER, TAGS
from grlm_hf.markdown import number, one_line, table
from grlm_hf.publishing.cards import finished, template, weights_and_form

_SHOWN = ("recall@5", "recall@10", "ndcg@10", "coverage")


def counting_card(folder: str | Path, report: Report | None = None, method: str = "", title: str = "") -> str:
    """The card of a folder of `GRLMForRecommendation.without_language_model`, with the figures of `method` in `report`."""
    from huggingface_hub import ModelCardData

    folder = Path(folder)
    catalog, config = Catalog.from_pretrained(folder), read_json(folder / CONFIG_FILE)
    parts = read_json(folder / PRIOR_FOLDER / "prior.json")["components"]
    weights = {**(report.weights.get(method, {}) if report else {}), **{part["name"]: part["weight"] for part in parts}}  # also 0
    figures = report.methods.get(method, {}) if report else {}
    rows = [[name, number(round(figures[name].value, 4))] for name in _SHOWN if name in figures]
    title = title or (one_line(report.dataset) if report else "") or "Recommender without a language model"
    text = template("counting").render(
        header=ModelCardData(library_name="grlm-hf", tags=[tag for tag in TAGS if tag != "term-ids"]).to_yaml(),
        title=title,
        catalog=catalog,
        prior=weights_and_form(weights, folder / PRIOR_FOLDER / "prior.json"),
        texts=any(part["kind"] == "text" for part in parts),
        history=", ".join(repr(item.item_id) for item in catalog.items[:2]),
        k=min(10, len(catalog)),
        exclude_seen=config.get("exclude_seen", False),
        figures=table(["metric", "value"], rows) if rows else "",
        method=method,
        protocol=protocol_note(report) if report else "",
        verdict=stated(report).text if report else "",
    )
    return finished(text)


def write_counting_card(folder: str | Path, report: Report, method: str) -> None:
    """Writes ``README.md`` into the folder."""
    write_text(Path(folder) / CARD, counting_card(folder, report, method))
