"""A checkpoint's card: every figure is of its files, the Hub reads it, its code runs, and nobody's text breaks it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from dataset_toys import toy_facts, toy_tables
from hub_server import HubServer, card_errors
from huggingface_hub import DatasetCard, HfApi, ModelCard, RepoCard, SpaceCard, metadata_load
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from report_toys import HOSTILE, full_report, with_figure
from toys import toy_catalog, toy_grlm, toy_histories

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.interactions import Case, leave_one_out
from grlm_hf.data.items import Item
from grlm_hf.evaluation.schema import Verdict
from grlm_hf.evaluation.significance import Comparison
from grlm_hf.files import fingerprint, read_json, write_json
from grlm_hf.hub import fetch_checkpoint
from grlm_hf.indexing.quality.measure import compare, measure
from grlm_hf.layout import CARD_FOLDER
from grlm_hf.publishing.audit import ALIKE, audit
from grlm_hf.publishing.folder import save_datasets
from grlm_hf.publishing.model_card import NO_REPORT, model_card, own_method, write_model_card
from grlm_hf.publishing.publish import publish
from grlm_hf.publishing.record import TRAINING, record_report, record_training
from grlm_hf.space.push import push_space

ROOT = Path(__file__).parents[2]
SETTINGS: dict[str, Any] = {"model": "scratch", "epochs": 2.0, "hub": {"repo": "secret/place", "every": 0}}


def facts(**more: Any) -> dict[str, Any]:
    quality = compare({"toy": measure(toy_catalog().items, toy_catalog().term_ids)})
    mixture = {"settings": {"sequence": 1.0, "sliding": 0.0}}
    return toy_facts(quality=quality, terms={"generator": "extract", "n_terms": 5}, mixture=mixture, language="en", **more)


def toy_audit() -> dict[str, int]:
    split = leave_one_out(toy_histories())
    return audit(((h.user_id, item) for h in split.train for item in h.items), split.test, toy_catalog())


def trained(folder: Path, start: str = "scratch", method: str = "sft", datasets: str = "org/toy-data", **more: Any) -> Path:
    toy_grlm().save_pretrained(folder)
    write_json(
        folder / "training_log.json", [{"loss": 2.0, "step": 7}, {"train_runtime": 12.34, "train_loss": 1.5, "epoch": 2.0, "step": 9}]
    )
    record_training(folder, method, {**SETTINGS, **more}, seed=3, start=start, datasets=datasets, facts=facts())
    return folder


def measured(folder: Path, start: str = "scratch", **more: Any) -> Path:
    record_report(trained(folder, start), full_report(), datasets="org/toy-data", facts=facts(**more), audit=toy_audit())
    write_model_card(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a report; to be read, not changed."""
    return measured(tmp_path_factory.mktemp("measured") / "checkpoint")


def tokens(card: str) -> list[Any]:
    body = card.split("---\n", 2)[2]
    return [
        t for token in MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(body) for t in (token, *(token.children or []))
    ]


def headings(card: str) -> list[str]:
    found = MarkdownIt("commonmark").enable("table").parse(card.split("---\n", 2)[2])
    return ["".join(t.content for t in b.children or []) for a, b in pairwise(found) if a.type == "heading_open"]


# --- figures ---------------------------------------------------------------------------------------------------------------------------


def test_the_hub_reads_the_few_figures_that_matter(checkpoint: Path) -> None:
    report, data = read_json(checkpoint / "card/report.json"), ModelCard.load(checkpoint / "README.md").data
    rival = max(("item_popularity", "random"), key=lambda name: report["methods"][name]["recall@10"]["value"])
    wanted = {f"{metric} of grlm": ("grlm", metric) for metric in ("recall@5", "recall@10", "ndcg@10", "coverage")}
    wanted[f"recall@10 without a language model ({rival})"] = (rival, "recall@10")
    assert [r.metric_name for r in data.eval_results] == list(wanted)
    for result, (method, metric) in zip(data.eval_results, wanted.values(), strict=True):
        assert (result.metric_type, result.metric_value) == (metric, round(report["methods"][method][metric]["value"], 6))
        assert (result.dataset_type, result.dataset_config, result.dataset_split) == ("org/toy-data", "leave-one-out", "test")
    assert len((checkpoint / "README.md").read_text(encoding="utf-8").split("\n---\n")[0].splitlines()) < 60
    assert (data["library_name"], data["pipeline_tag"]) == ("transformers", "text-generation")
    assert (data["datasets"], data["language"], data.get("base_model")) == (["org/toy-data"], ["en"], None)
    assert "custom_generate" in data["tags"]


def test_people_read_every_figure(checkpoint: Path) -> None:
    report, card = read_json(checkpoint / "card/report.json"), (checkpoint / "README.md").read_text(encoding="utf-8")
    for metrics in report["methods"].values():
        for metric in ("recall@5", "recall@10", "recall@20", "ndcg@10"):
            m = metrics[metric]
            interval = f" [{m['low']:.4f},\u00a0{m['high']:.4f}]" if m["low"] != m["high"] else ""
            assert f"{m['value']:.4f}{interval}" in card
    for entry in report["comparisons"]:
        assert f"{entry['difference']:+.4f}" in card
        assert f"{entry['p']:.4f}" in card
    parameters = sum(p.numel() for p in toy_grlm().model.parameters())
    for said in (
        f"{parameters:,} parameters", "12 items under 11 Term IDs", "trained from scratch", "| 12.3 |", "| energy | not measured |",
        "\nseed: 3\n", "\n  epochs: 2.0\n", f"`{read_json(checkpoint / TRAINING)['recipe_hash']}`",
    ):  # fmt: skip
        assert said in card
    pictures = [t.attrs["src"] for t in tokens(card) if t.type == "image"]
    assert pictures[0] == "card/report.png"
    assert set(pictures) == {f"card/{p.name}" for p in (checkpoint / CARD_FOLDER).glob("*.png")}
    assert headings(card) == [
        "toy", "Use", "Results", "Collisions and leakage", "Quality of the Term IDs", "Training", "Intended use", "Limits",
    ]  # fmt: skip


def test_the_method_of_a_checkpoint_is_the_one_that_it_offers() -> None:
    report = full_report()
    names = ("grlm", "grlm+item_knn", "grlm+item_knn+text_knn", "item_knn", "random")
    report = replace(report, methods=dict.fromkeys(names, report.methods["random"]))
    one, two = [{"name": "item_knn"}], [{"name": "text_knn"}, {"name": "item_knn"}]
    for ship, prior, own in (
        ("grlm+item_knn", two, "grlm+item_knn"),
        ("item_knn", two, "grlm+item_knn+text_knn"),
        ("item_knn", one, "grlm+item_knn"),
        ("", [], "grlm"),
    ):
        assert own_method(replace(report, verdict=Verdict(text="", best="", ship=ship)), prior) == own
    assert own_method(replace(report, methods={"item_knn": report.methods["item_knn"]}), []) == own_method(None, []) == ""


def test_people_of_the_report_are_not_in_a_card(checkpoint: Path) -> None:
    assert full_report().examples
    assert "examples" not in read_json(checkpoint / "card/report.json")


def test_which_method_is_better_is_said_as_the_test_found(tmp_path: Path) -> None:
    folder = measured(tmp_path / "checkpoint")
    for p, said in ((0.001, "a real difference"), (0.25, "it could be chance")):
        methods = full_report().methods
        for name, value in (("grlm", 0.3), ("item_popularity", 0.4), ("random", 0.1)):
            methods = with_figure(methods, name, "recall@10", value=value)
        entry = Comparison("item_popularity", "grlm", "recall@10", 0.1, 0.0, 0.2, p, None, "t")
        write_json(folder / "card/report.json", replace(full_report(), methods=methods, comparisons=(entry,)).to_json())
        (line,) = [line for line in model_card(folder).splitlines() if "is best" in line]
        assert "with recall@10 0.4000, +0.1000 against grlm, the best with the language model" in line
        assert f"(p = {p:.4f}: {said})" in line
        assert "without the language model: chosen on these users" in line


def test_a_checkpoint_without_a_report_claims_nothing(tmp_path: Path) -> None:
    toy_grlm().save_pretrained(tmp_path / "bare")
    for folder in (tmp_path / "bare", trained(tmp_path / "trained")):
        card = model_card(folder)
        assert NO_REPORT in card
        assert "model-index" not in card
        assert not re.search(r"(recall|ndcg)@", card)
        assert card_errors(yaml.safe_load(card.split("---\n")[1]), "model") == []
    assert "How it was trained was not recorded" in model_card(tmp_path / "bare")


def test_figures_of_other_weights_are_refused(hub: HubServer, tmp_path: Path) -> None:
    folder = measured(tmp_path / "checkpoint")
    shutil.copyfile(trained(tmp_path / "other") / "grlm_config.json", folder / "grlm_config.json")  # the same file: nothing has changed
    model_card(folder)
    toy_grlm(seed=1).model.save_pretrained(folder)
    for dry_run in (True, False):
        with pytest.raises(ValueError, match="a report of other weights, priors or items than those that are here now"):
            publish(folder, "org/stale", license="mit", dry_run=dry_run)
    with pytest.raises(ValueError, match="Evaluate it again"):
        model_card(folder)
    assert ("models", "org/stale") not in hub.repos


# --- the same files, the same bytes ----------------------------------------------------------------------------------------------------


def test_a_card_is_the_same_wherever_it_is_written(checkpoint: Path, tmp_path: Path) -> None:
    written = (checkpoint / "README.md").read_bytes()
    shutil.copytree(checkpoint, tmp_path / "elsewhere")
    os.utime(tmp_path / "elsewhere" / "card" / "report.json", (0, 0))
    code = "import sys; from grlm_hf.publishing.model_card import write_model_card; write_model_card(sys.argv[1])"
    changed = {"LC_ALL": "tr_TR.UTF-8", "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "5", "PYTHONPATH": str(ROOT)}
    for where in (tmp_path, tmp_path / "elsewhere"):
        (tmp_path / "elsewhere" / "README.md").unlink()
        place = str((tmp_path / "elsewhere").relative_to(where)) if where == tmp_path else "."
        subprocess.run([sys.executable, "-c", code, place], cwd=where, env=os.environ | changed, check=True)
        assert (tmp_path / "elsewhere" / "README.md").read_bytes() == written


def test_the_record_changes_no_stages_key_and_is_not_fetched(hub: HubServer, checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "plain", ignore=shutil.ignore_patterns("card", "README.md"))
    assert fingerprint("evaluate", [checkpoint], []) == fingerprint("evaluate", [tmp_path / "plain"], [])
    publish(checkpoint, "org/fetched", license="mit")
    assert not (fetch_checkpoint("org/fetched") / CARD_FOLDER).exists()


def test_templates_where_only_the_wheel_is(checkpoint: Path, tmp_path: Path) -> None:
    """The package as the wheel lays it out, away from the checkout."""
    shipped = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    shutil.copytree(ROOT / "grlm_hf", tmp_path / "grlm_hf", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "model_cards", tmp_path / shipped["model_cards"])
    code = (
        "import sys, grlm_hf; from importlib.resources import files; from grlm_hf.publishing.model_card import model_card\n"
        "assert grlm_hf.__file__.startswith(sys.argv[2]), grlm_hf.__file__\n"
        "shipped = sorted(p.name for p in (files('grlm_hf') / 'model_cards').iterdir())\n"
        "assert shipped == ['counting.md', 'dataset.md', 'dataset.yaml', 'model.md', 'space.md']\n"
        "sys.stdout.buffer.write(model_card(sys.argv[1]).encode())"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(checkpoint), str(tmp_path)], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)},
        check=True, capture_output=True,
    )  # fmt: skip
    assert ran.stdout == (checkpoint / "README.md").read_bytes()


# --- what the Hub and Python make of it ------------------------------------------------------------------------------------------------


def test_the_code_in_a_card_runs(checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is, inside the folder."""
    monkeypatch.chdir(checkpoint)
    blocks = re.findall(r"```python\n(.*?)```", (checkpoint / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    space: dict[str, Any] = {}
    said = []
    for block in blocks:
        exec(block, space)
        said.append(capsys.readouterr().out)
    best = toy_grlm().recommend(space["history"], k=10)
    assert [line.split()[0] for line in said[0].splitlines()] == [r.item_id for r in best]
    assert set(re.findall(r"\[([^\[\]]+)\]", said[1])) <= {", ".join(t) for t in toy_catalog().identifiers}
    assert best[0].title in said[2]


def test_every_card_passes_the_hubs_validation(hub: HubServer, checkpoint: Path, tmp_path: Path) -> None:
    publish(checkpoint, "org/scratch", license="apache-2.0")
    publish(
        measured(tmp_path / "tuned", start="Qwen/Qwen3-0.6B"), "org/tuned", license="other", license_name="x", license_link="https://x.y"
    )
    publish(trained(tmp_path / "no-report", start="org/tuned", method="dpo"), "org/no-report", license="mit")
    save_datasets(toy_tables(), toy_catalog(), tmp_path / "data", facts())
    publish(tmp_path / "data", "org/validated-data", license="cc-by-4.0")
    toy_catalog().save_pretrained(tmp_path / "catalog")
    publish(tmp_path / "catalog", "org/validated-catalog", license="cc-by-4.0")
    push_space(str(checkpoint), "org/validated-space", license="mit")
    kinds: list[tuple[type[RepoCard], str, list[str]]] = [
        (ModelCard, "model", ["scratch", "tuned", "no-report"]),
        (DatasetCard, "dataset", ["validated-data", "validated-catalog"]),
        (SpaceCard, "space", ["validated-space"]),
    ]
    for card, kind, names in kinds:
        for name in names:
            (tmp_path / "card.md").write_bytes(text := hub.files(f"org/{name}", kind)["README.md"])
            loaded = card.load(tmp_path / "card.md")
            loaded.validate()
            head = metadata_load(tmp_path / "card.md")
            assert head is not None
            assert loaded.data.to_dict() == head  # read and written again, nothing is lost
            assert b"$" not in text.split(b"```")[0]  # no place of the template left
    tuned = ModelCard(hub.files("org/tuned")["README.md"].decode()).data
    assert (tuned["base_model"], tuned["base_model_relation"]) == ("Qwen/Qwen3-0.6B", "finetune")
    assert ModelCard(hub.files("org/no-report")["README.md"].decode()).data["base_model"] == "org/tuned"


@pytest.mark.parametrize(
    ("kind", "head"),
    [
        ("model", "model-index:\n- name: x\n  results:\n  - task: {type: a}\n    dataset: {name: b, type: c}\n    metrics:\n"
         "    - {type: d, name: e, value: .nan}"),
        ("model", "model-index:\n- results: 3"),
        ("model", "base_model: /home/me/model"),
        ("model", "datasets: [two words]"),
        ("dataset", "license: [1]"),
        ("dataset", "- a list"),
        ("space", "sdk: gradio\ncolorFrom: beige"),
        ("space", "title: x"),
    ],
)  # fmt: skip
def test_the_validation_refuses_what_is_wrong(hub: HubServer, kind: str, head: str) -> None:
    card = RepoCard(f"---\n{head}\n---\n", ignore_metadata_errors=True) if not head.startswith("-") else None
    assert card_errors(yaml.safe_load(head), kind)
    if card is not None:
        card.content = f"---\n{head}\n---\n"
        with pytest.raises(ValueError, match="errors"):
            card.validate(repo_type=kind)


def test_a_push_is_one_commit_of_all_and_a_dry_run_shows_it(hub: HubServer, checkpoint: Path, tmp_path: Path) -> None:
    said = publish(checkpoint, "org/pushed", license="mit", dry_run=True)
    assert ("models", "org/pushed") not in hub.repos
    listing, card = said.listing().split("\nlicence: mit\n\n")
    publish(checkpoint, "org/pushed", license="mit")
    files = hub.files("org/pushed")
    assert card == files["README.md"].decode()
    assert 'repo = "org/pushed"\n' in card
    assert 'repo = "."' not in card
    listed = dict(re.findall(r"^  (\S+)  ([\d,]+) bytes$", listing, re.MULTILINE))
    assert {name: len(data) for name, data in files.items() if name != ".gitattributes"} == {
        name: int(size.replace(",", "")) for name, size in listed.items()
    }
    needed = {"model.safetensors", "catalog.parquet", "custom_generate/generate.py", "card/report.json", "card/report.png", "README.md"}
    assert needed <= set(files)
    assert len(hub.commits("org/pushed")) == 2  # the repository's first, and one for all of this
    assert HfApi().model_info("org/pushed").private
    toy_grlm(seed=1).save_pretrained(tmp_path / "newer")  # never measured
    publish(tmp_path / "newer", "org/pushed", license="mit")
    assert not [name for name in hub.files("org/pushed") if name.startswith("card/")]  # the pictures of other weights go
    assert NO_REPORT in hub.files("org/pushed")["README.md"].decode()


# --- what is kept of a training --------------------------------------------------------------------------------------------------------


def test_a_record_tells_what_was_before_and_no_paths(tmp_path: Path) -> None:
    first = trained(tmp_path / "first", start="org/base", teacher=str(tmp_path / "teachers" / "sasrec.prior"))
    second = trained(tmp_path / "second", start=str(first), method="grpo", datasets=str(tmp_path / "data"))
    record = read_json(second / TRAINING)
    assert (record["base_model"], record["start"], record["datasets"]) == ("org/base", "first", "")
    assert record["before"] == read_json(first / TRAINING)
    card = model_card(second)
    assert card.index("Supervised fine-tuning on") < card.index("GRPO on")
    assert "sasrec.prior" in card
    for secret in (str(tmp_path), "secret/place"):
        assert secret not in (second / TRAINING).read_text() + card
    again = read_json(trained(tmp_path / "again", start="org/base", teacher="/other/machine/sasrec.prior") / TRAINING)
    assert again["recipe_hash"] == record["before"]["recipe_hash"]
    assert read_json(trained(tmp_path / "longer", epochs=3.0) / TRAINING)["recipe_hash"] != again["recipe_hash"]


def test_a_record_of_somebody_else_is_read_with_care(tmp_path: Path) -> None:
    folder = trained(tmp_path / "checkpoint")
    good = read_json(folder / TRAINING)
    for broken, said in (
        ({**good, "schema": "grlm.card/9"}, "no record with schema 'grlm.card/1'"),
        ([good], "no record with schema"),
        ({**good, "base_model": "a/b](https://evil.example)"}, "expected a Hub id like ORG/NAME"),
    ):
        write_json(folder / TRAINING, broken)
        with pytest.raises(ValueError, match=said):
            model_card(folder)


# --- text of others --------------------------------------------------------------------------------------------------------------------


def hostile_card(folder: Path, text: str) -> str:
    report = full_report().to_json()
    report["dataset"] = report["protocol"]["split"] = text
    report["methods"] = {name if name != "random" else text or "none": m for name, m in report["methods"].items()}
    report["slices"]["history length"] = dict(zip([text, "b"], list(report["slices"]["history length"].values())[:2], strict=True))
    for entry in report["comparisons"]:
        entry["test"], entry["b"] = text, text
    write_json(folder / "card/report.json", report)
    about = read_json(folder / "card/facts.json")
    write_json(folder / "card/facts.json", about | {"title": text, "notice": text})
    kept = read_json(folder / TRAINING)
    said = {"title": text, "datasets": "", "device": text, "versions": {"torch": text}, "prompt_hash": "abc"}
    write_json(folder / TRAINING, kept | said | {"recipe": {"train": {"model": text, "of": [text]}, text: text}})
    card = model_card(folder)
    write_json(folder / TRAINING, kept)
    return card


def check_hostile(folder: Path, plain: str, text: str) -> None:
    card = hostile_card(folder, text)
    assert headings(card)[1:] == headings(plain)[1:]
    data = ModelCard(card).data  # the YAML is whole
    assert card_errors(yaml.safe_load(card.split("\n---\n")[0].removeprefix("---\n")), "model") == []
    assert data.get("tags") == ModelCard(plain).data.get("tags")
    html = [t.content.strip() for t in tokens(card) if t.type in ("html_block", "html_inline")]
    assert html == [t.content.strip() for t in tokens(plain) if t.type in ("html_block", "html_inline")]  # ours: details
    code = [t.content for t in tokens(card) if t.type == "fence" and t.info == "python"]
    assert code == [t.content for t in tokens(plain) if t.type == "fence" and t.info == "python"]
    assert sum(t.type == "fence" for t in tokens(card)) == sum(t.type == "fence" for t in tokens(plain))
    images = [t.attrs["src"] for t in tokens(card) if t.type == "image"]
    assert images == [t.attrs["src"] for t in tokens(plain) if t.type == "image"]


@pytest.fixture(scope="module")
def attacked(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder whose record the tests write into, and its card with plain text."""
    folder = tmp_path_factory.mktemp("attacked") / "checkpoint"
    shutil.copytree(checkpoint, folder)
    return folder, hostile_card(folder, "plain")


@pytest.mark.parametrize(
    "text",
    [
        HOSTILE,
        "---\nlicense: mit\n---\n# x",
        "```\n</details>\n# x",
        "a | b\n|---|",
        "![x](https://evil.example/x.png)",
        "</summary>",
        "$title",
    ],
)
def test_a_users_text_is_shown_and_does_nothing(attacked: tuple[Path, str], text: str) -> None:
    check_hostile(*attacked, text)


@settings(max_examples=25, deadline=None)
@given(st.text(alphabet=st.sampled_from(list("ab1.)-+=#>*_`~[]()<>&!|\\ $\n\t:/@'\"{}%\u202e水")), min_size=1, max_size=30))
def test_any_text_is_shown_and_does_nothing(attacked: tuple[Path, str], text: str) -> None:
    check_hostile(*attacked, text)


def test_ids_of_any_form_stand_in_the_code(tmp_path: Path) -> None:
    ids = ["a\"b'c", "``` \u202e$k", "x"]
    catalog = Catalog([Item(i, f"Title {n}") for n, i in enumerate(ids)], toy_catalog().term_ids[:3])
    toy_grlm().save_pretrained(tmp_path / "c")
    catalog.save_pretrained(tmp_path / "c")
    block = next(t.content for t in tokens(model_card(tmp_path / "c")) if t.type == "fence")
    (line,) = [line for line in block.splitlines() if line.startswith("history = ")]
    space: dict[str, Any] = {}
    exec(line, space)
    assert space["history"] == ids[:2]
    assert line.isprintable()


# --- the audit -------------------------------------------------------------------------------------------------------------------------

NAMES = st.sampled_from("abcde")
IDS = st.sampled_from([i.item_id for i in toy_catalog()])


@given(
    st.lists(st.tuples(NAMES, IDS), max_size=30),
    st.lists(st.builds(Case, NAMES, st.lists(IDS, min_size=1, max_size=5).map(tuple), IDS), max_size=12),
)
def test_the_audit_counts_what_it_says(events: list[tuple[str, str]], cases: list[Case]) -> None:
    catalog, found = toy_catalog(), audit(events, cases, toy_catalog())
    shared = {i.item_id for i in catalog if len(catalog.items_of(catalog.term_id(i.item_id))) > 1}
    assert found == {
        "cases": len(cases),
        "targets_trained_on": sum(events.count((c.user_id, c.target)) > Counter(c.history)[c.target] for c in cases),
        "twins": sum(
            any(d.user_id != c.user_id and (d.history, d.target) == (c.history, c.target) for d in cases) and len(c.history) >= ALIKE - 1
            for c in cases
        ),
        "targets_had_before": sum(c.target in c.history for c in cases),
        "targets_never_trained": sum(c.target not in [item for _, item in events] for c in cases),
        "targets_sharing_a_term_id": sum(c.target in shared for c in cases),
        "items": 12,
        "items_sharing_a_term_id": len(shared),
    }
