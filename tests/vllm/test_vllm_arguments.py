"""What a request may say of the constraint on vLLM, checked before an engine sees it. No vLLM here."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import TERM_IDS, toy_catalog, toy_grlm, toy_tokenizer

from grlm_hf import Catalog
from grlm_hf.decoding.rules import Rules
from grlm_hf.layout import CATALOG_FILE
from grlm_hf.vllm.arguments import CATALOGS, DEFAULT, KEYS, MAX_IDS, Arguments, always, check, named_catalogs
from grlm_hf.vllm.catalogs import Catalogs, log_once

IDS = [i.item_id for i in toy_catalog()]


def params(max_tokens: int = 24, **extra: Any) -> Any:
    return SimpleNamespace(extra_args=extra or None, max_tokens=max_tokens)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arguments") / "checkpoint"
    toy_grlm().save_pretrained(folder)
    return folder


def catalogs(folder: Path | None, named: dict[str, Path] | None = None, always: bool = False) -> Catalogs:
    return Catalogs(folder, named or {}, str(folder), len(toy_tokenizer()), eos=7, constrain_all=always)


# --- arguments -----------------------------------------------------------------------------------------------------------------------


def test_a_request_that_says_nothing_asks_nothing() -> None:
    assert Arguments.of(None) == Arguments.of({}) == Arguments.of({"session_id": "x", "other": [1]}) == Arguments()
    assert Arguments.of({"grlm_constrain": False}).constrain is False


@pytest.mark.parametrize("value", [True, 1, 1.0, "true", "True"])
def test_truth_as_http_may_write_it(value: Any) -> None:
    assert Arguments.of({"grlm_constrain": value}) == Arguments(True)


def test_rules_and_catalogs_ask_for_the_constraint() -> None:
    asked = Arguments.of({"grlm_exclude": ["a"], "grlm_seen": ["b"], "grlm_ban_terms": ["Long  Lasting"], "grlm_domain": "d"})
    assert asked == Arguments(True, DEFAULT, Rules(exclude=("a", "b"), banned_terms=("long-lasting",), domain="d"))
    assert Arguments.of({"grlm_catalog": "x"}) == Arguments(True, "x")
    assert Arguments.of({"grlm_allow": []}).rules.allow == ()  # nothing is allowed; not: all is


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ({"grlm_excluded": ["a"]}, "Did you mean 'grlm_exclude'"),
        ({"grlm_zzz": 1}, "Expected one of grlm_constrain"),
        ({"grlm_constrain": "yes"}, "true or false"),
        ({"grlm_constrain": 2}, "true or false"),
        ({"grlm_constrain": [True]}, "true or false"),
        ({"grlm_allow": "a"}, "a list of texts"),
        ({"grlm_allow": ["a", 1]}, "holds '1'"),
        ({"grlm_seen": {"a": 1}}, "a list of texts"),
        ({"grlm_exclude": ["a" * 1001]}, "1000 characters"),
        ({"grlm_allow": ["a"] * (MAX_IDS + 1)}, "at most 100000"),
        ({"grlm_ban_terms": ["!!"]}, "no letter or digit"),
        ({"grlm_domain": 3}, "expected a text"),
        ({"grlm_domain": ""}, "expected a text"),
        ({"grlm_catalog": "deflaut"}, "Did you mean 'default'"),
        ({"grlm_catalog": "../../etc/passwd"}, "Expected one of \\['default'\\]"),
        ({"grlm_constrain": False, "grlm_allow": ["a"]}, "leave out one"),
    ],
)
def test_what_cannot_be_followed_is_refused(extra: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CATALOGS, raising=False)
    with pytest.raises(ValueError, match=says) as error:
        check(extra)
    assert len(str(error.value)) < 600


VALUES: Any = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.one_of(st.text(), st.integers(), st.none())), st.binary()
)


@settings(deadline=None)
@given(extra=st.dictionaries(st.sampled_from([*(f"grlm_{k}" for k in KEYS), "grlm_", "grlm_x", "y"]), VALUES))
def test_any_value_is_taken_or_refused_with_a_value_error(extra: dict[str, Any]) -> None:
    try:
        asked = Arguments.of(extra)
    except ValueError:
        return
    assert asked.constrain in (None, True, False)
    assert hash(asked.rules) == hash(asked.rules)


def test_named_catalogs_are_known_to_the_front_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CATALOGS, "toys=/a, books = /b/c=d ,")
    assert named_catalogs() == {"toys": Path("/a"), "books": Path("/b/c=d")}
    check({"grlm_catalog": "books"})
    with pytest.raises(ValueError, match="Did you mean 'books'"):
        check({"grlm_catalog": "book"})
    for wrong in ("toys", "=x", "toys=", "a=/x,a=/y", "default=/x"):
        with pytest.raises(ValueError, match=CATALOGS):
            named_catalogs(wrong)


def test_engine_wide_setting() -> None:
    assert always({"grlm": {"constrain": "always"}})
    assert not always({})
    assert not always({"grlm": {}})
    assert not always({"grlm": {"constrain": "asked"}})
    assert not always(object())
    for wrong in ({"grlm": {"constrain": True}}, {"grlm": {"constrained": "always"}}, {"grlm": "always"}):
        with pytest.raises(ValueError, match="always"):
            always(wrong)


def test_the_package_and_the_arguments_need_no_vllm_and_no_torch() -> None:
    code = (
        "import sys; sys.modules['vllm'] = None; import grlm_hf.vllm, grlm_hf.vllm.arguments as a; a.check({'grlm_seen': ['x']});"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules; "
        "assert 'TrieConstrainedLogitsProcessor' in dir(grlm_hf.vllm)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- catalogs ------------------------------------------------------------------------------------------------------------------------


def test_requests_are_held_to_what_they_ask_for(checkpoint: Path) -> None:
    ours = catalogs(checkpoint)
    assert ours.constraint(params()) is None
    assert ours.constraint(params(grlm_constrain=False)) is None
    plain = ours.constraint(params(grlm_constrain=True))
    assert plain is not None
    assert plain.loaded is ours.get(DEFAULT)
    assert plain.allowed is None
    assert not plain.tail
    ruled = ours.constraint(params(grlm_ban_terms=["tent"]))
    assert ruled is not None
    assert ruled.allowed is not None
    index = ruled.loaded.index  # type: ignore[union-attr]
    allowed = {index.catalog.identifiers[index.trie.leaf[r]] for r in range(len(index.trie)) if ruled.allowed[r + 1] > ruled.allowed[r]}
    assert allowed == {tid for tid in TERM_IDS if "tent" not in tid}
    again = ours.constraint(params(grlm_ban_terms=["tent"], grlm_constrain=True))
    assert again is not None
    assert again.allowed is ruled.allowed


def test_what_cannot_be_known_at_admission_only_ends_the_text(checkpoint: Path) -> None:
    ours = catalogs(checkpoint)
    ruled = ours.constraint(params(grlm_allow=["nobody", IDS[0]], grlm_seen=["nobody either"]))
    assert ruled is not None
    assert ruled.allowed is not None
    assert ruled.allowed[0] == 0
    assert ruled.allowed[-1] == 1
    for nothing in ({"grlm_allow": ["nobody"]}, {"grlm_domain": "nowhere"}, {"grlm_allow": []}):
        ruled = ours.constraint(params(**nothing))
        assert ruled is not None
        assert ruled.allowed is not None
        assert not ruled.allowed.any()
    for wrong in ({"grlm_catalog": "unknown"}, {"grlm_allow": 3}, {"grlm_unknown": 1}):  # which `check` refuses
        closed = ours.constraint(params(**wrong))
        assert closed is not None
        assert closed.loaded is None
        assert closed.eos == 7


def test_without_a_catalog_a_constraint_is_not_forgotten() -> None:
    nothing = catalogs(None)
    assert nothing.constraint(params()) is None
    closed = nothing.constraint(params(grlm_constrain=True))
    assert closed is not None
    assert closed.loaded is None


def test_always(checkpoint: Path) -> None:
    ours = catalogs(checkpoint, always=True)
    assert ours.constraint(params(grlm_constrain=False)) is None
    for asked, tail in ((params(), False), (params(1), True), (params(1, grlm_constrain=True), False), (params(1, session_id="x"), True)):
        found = ours.constraint(asked)
        assert found is not None
        assert found.tail is tail


def test_a_changed_catalog_is_loaded_and_a_broken_one_is_not(checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log_once.cache_clear()
    folder = tmp_path / "named"
    catalog = toy_catalog()
    catalog.save_pretrained(folder)
    ours = catalogs(checkpoint, {"named": folder})
    first = ours.get("named")
    assert first is not None
    assert first.index.catalog == catalog
    assert ours.get("named") is first
    smaller = catalog.remove(IDS[:4])
    smaller.save_pretrained(folder)
    second = ours.get("named")
    assert second is not None
    assert second.index.catalog == smaller
    assert first.index.catalog == catalog
    (folder / CATALOG_FILE).write_bytes(b"PAR1 no catalog")
    with caplog.at_level(logging.WARNING, "grlm_hf.vllm"):
        assert ours.get("named") is second
        assert ours.get("named") is second
    assert len(caplog.records) == 1
    assert "stays in use" in caplog.text
    os.remove(folder / CATALOG_FILE)
    assert ours.get("named") is second
    catalog.save_pretrained(folder)
    found = ours.get("named")
    assert found is not None
    assert found.index.catalog == catalog


def test_a_catalog_that_never_could_be_read_is_no_catalog(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / CATALOG_FILE).write_bytes(b"")
    ours = catalogs(checkpoint, {"broken": tmp_path / "broken", "missing": tmp_path / "missing"})
    for name in ("broken", "missing"):
        closed = ours.constraint(params(grlm_catalog=name))
        assert closed is not None
        assert closed.loaded is None
    assert ours.constraint(params(grlm_constrain=True)).loaded is not None  # type: ignore[union-attr]
    small = Catalogs(checkpoint, {}, str(checkpoint), vocabulary=10)
    assert small.get(DEFAULT) is None  # a model with fewer tokens than the identifiers use


def test_a_catalog_saved_anew_has_the_same_trie_as_one_built_from_scratch(checkpoint: Path, tmp_path: Path) -> None:
    catalog = toy_catalog()
    catalog.remove(IDS[5:]).save_pretrained(tmp_path)
    ours = catalogs(checkpoint, {"grows": tmp_path})
    catalog.save_pretrained(tmp_path)
    found = ours.get("grows")
    assert found is not None
    assert found.index.catalog == Catalog.from_pretrained(tmp_path)
    fresh = catalog.trie(toy_tokenizer())
    assert [p.tolist() for p in found.index.trie.paths()] == [p.tolist() for p in fresh.paths()]


def test_facts_of_an_engine(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CATALOGS, raising=False)

    def engine(model: str, **additional: Any) -> Any:
        config = SimpleNamespace(
            model=model, revision=None, tokenizer=model, hf_config=SimpleNamespace(eos_token_id=[5, 6]), get_vocab_size=lambda: 300
        )
        return SimpleNamespace(model_config=config, additional_config=additional)

    one, other = Catalogs.of(engine(str(checkpoint))), Catalogs.of(engine(str(checkpoint)))
    assert one is other
    assert DEFAULT in one.folders
    none = Catalogs.of(engine(str(checkpoint / "custom_generate")))
    assert not none.folders
    assert none.eos == 5
    with pytest.raises(ValueError, match="no GRLM checkpoint"):
        Catalogs.of(engine(str(checkpoint / "custom_generate"), grlm={"constrain": "always"}))
    monkeypatch.setenv(CATALOGS, "no folder")
    with pytest.raises(ValueError, match="expected name=/folder"):
        Catalogs.of(engine(str(checkpoint)))
