"""Settings are refused when they are read, not when a stage uses them hours later."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import pytest

from grlm_hf import layout
from grlm_hf.cli.settings import field_docs
from grlm_hf.priors.knn import KNNConfig
from grlm_hf.priors.text import TextConfig
from grlm_hf.recipe import Recipe, load_recipe
from grlm_hf.settings import Range, check_value


def settings_of(value: Any, prefix: str = "") -> Iterator[tuple[str, type, str, Any]]:
    """(key, dataclass, field, annotation) of every setting, those of nested dataclasses too."""
    kinds = get_type_hints(type(value), include_extras=True)
    for f in fields(value):
        inner = getattr(value, f.name)
        if is_dataclass(inner):
            yield from settings_of(inner, f"{prefix}{f.name}.")
        else:
            yield f"{prefix}{f.name}", type(value), f.name, kinds[f.name]


SETTINGS = [*settings_of(Recipe()), *settings_of(KNNConfig(), "item_knn."), *settings_of(TextConfig(), "text_knn.")]
NUMBERS = [s for s in SETTINGS if set(get_args(get_args(s[3])[0] if get_origin(s[3]) is Annotated else s[3]) or (s[3],)) & {int, float}]
RANGED = [s for s in SETTINGS if get_origin(s[3]) is Annotated]
CHOICES = [s for s in SETTINGS if get_origin(s[3]) is Literal]
keys = lambda some: [s[0] for s in some]  # noqa: E731


def test_every_number_has_a_range() -> None:
    assert len(RANGED) > 80
    assert not [s[0] for s in NUMBERS if s not in RANGED]


@pytest.mark.parametrize(("key", "owner", "name", "kind"), RANGED, ids=keys(RANGED))
def test_a_number_out_of_its_range_is_named(key: str, owner: type, name: str, kind: Any) -> None:
    base, span = get_args(kind)
    wrong = [math.nan, math.inf, -math.inf, "3", True]
    wrong += [-1e-9, -5] if span.least == 0 or span.above == 0 else []
    wrong += [span.least - 1] if math.isfinite(span.least) else []
    wrong += [span.most + 1] if math.isfinite(span.most) else []
    wrong += [end for end in (span.above, span.below) if math.isfinite(end)]
    wrong += [1.5] if base is int else []
    for value in wrong:
        with pytest.raises(ValueError, match=rf"^{re.escape(key)} is {re.escape(repr(value))}; expected \S"):
            owner(**{name: value})


@pytest.mark.parametrize(("key", "owner", "name", "kind"), CHOICES, ids=keys(CHOICES))
def test_a_choice_that_does_not_exist_is_named(key: str, owner: type, name: str, kind: Any) -> None:
    choices = ", ".join(map(repr, get_args(kind)))
    with pytest.raises(ValueError, match=rf"^{re.escape(key)} is 'drp'; expected one of {re.escape(choices)}\.$"):
        owner(**{name: "drp"})
    documented = field_docs(owner)[name]
    assert not [c for c in get_args(kind) if c and str(c) not in documented]


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("read.unknown_items=drp", "one of 'error', 'drop'"),
        ("read.short_users=kep", "one of 'error', 'drop', 'keep'"),
        ("read.missing_title=fil", "one of 'error', 'fill'"),
        ("evaluate.batch_size=0", "1 to 1048576"),
        ("evaluate.num_beams=-3", "at least 0"),
        ("evaluate.resamples=0", "at least 1"),
        ("grpo.beta=-1", "at least 0"),
        ("grpo.learning_rate=-1", "more than 0"),
        ("train.learning_rate=-1", "more than 0"),
        ("train.learning_rate=nan", "more than 0"),
        ("train.dropout=2", "at least 0 and less than 1"),
        ("train.warmup=100", "at least 0 and less than 1"),
        ("train.lora.bits=8", "one of 4, 16"),
        ("train.scratch.kv_heads=3", "a divisor of heads, 4"),
        ("neighbors.min_score=2", "-1 to 1"),
        ("seed=-1", "0 to 4294967295"),
        ("mixture.query=101", "a weight: 0 for none, 0.5 for half, 1 for each, 2 for each twice (at most 100)"),
    ],
)
def test_a_recipe_is_refused_before_any_stage_runs(setting: str, expected: str) -> None:
    key, _, value = setting.partition("=")
    with pytest.raises(ValueError, match=re.escape(setting)) as error:
        load_recipe(settings=[setting])
    assert re.search(rf"{re.escape(key)} is '?{re.escape(value)}(\.0)?'?; expected {re.escape(expected)}\.$", str(error.value))


def test_values_at_the_ends_of_ranges() -> None:
    load_recipe(settings=["neighbors.min_score=null", "neighbors.recall=1", "train.warmup=0", "train.max_steps=-1", "mixture.query=100"])
    load_recipe(settings=["train.lora.bits=4", "train.early_stopping.metric=", "grpo.rewards.prefix=-1"])
    check_value("x", None, Annotated[float | None, Range(0)])
    with pytest.raises(ValueError, match="x is None; expected a finite number"):
        check_value("x", None, Annotated[float, Range()])


def test_files_that_settings_name_are_files_that_are_written() -> None:
    written = {value for value in vars(layout).values() if isinstance(value, str)}
    named = [
        (key, path)
        for key, owner, name, _ in SETTINGS
        for path in re.findall(r"[\w./-]*\w\.(?:prior|parquet|safetensors|json|trie|png|html)\b", field_docs(owner).get(name, ""))
    ]
    assert ("output", "neighbors.parquet") in named
    assert not [(key, path) for key, path in named if path.rpartition("/")[2] not in written]


@pytest.mark.parametrize("order", [1, -1])
def test_settings_that_belong_together_change_together(order: int) -> None:
    changed = ["priors.methods=[]", "priors.combine=[]", "priors.hybrids=[]"][::order]
    assert load_recipe(None, changed).priors.methods == []


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("${oc.env:HF_TOKEN}", "HF_TOKEN', which may be a secret"),
        ("a ${ oc.env : HOME , x } b", "begins with GRLM_"),
        ("${oc.env:'HF_TOKEN'}", "may be a secret"),
        ("${oc.env:${notice}}", "may be a secret|cannot|not found|HF"),
        ("${oc.decode:'1'}", "resolver 'oc.decode'"),
        ("${oc.env:GRLM_${name}}", r"may be a secret"),
    ],
)
def test_a_recipe_reads_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, message: str) -> None:
    """Its name and its notice are published."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    (tmp_path / "r.yaml").write_text(f'notice: "{value}"\n')
    with pytest.raises(ValueError, match=message) as refused:
        load_recipe(tmp_path / "r.yaml")
    assert "hf_secret" not in str(refused.value)
    with pytest.raises(ValueError, match="notice") as refused:
        load_recipe(None, [f"notice={value}"])
    assert "hf_secret" not in str(refused.value)
    monkeypatch.setenv("GRLM_PLACE", "here")
    assert load_recipe(None, ["data=${oc.env:GRLM_PLACE}", "output=${data}/out"]).output == "here/out"
