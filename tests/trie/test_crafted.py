"""A file of a trie that is whole and wrong: its checksum fits, and what it says is not so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from toys import toy_catalog, toy_grlm

from grlm_hf import GRLMForRecommendation
from grlm_hf.trie.arrays import Trie

CRAFTED: dict[str, Callable[[Trie], object]] = {
    "leaf twice": lambda t: setattr(t, "leaf", np.zeros_like(t.leaf)),
    "leaf out of range": lambda t: setattr(t, "leaf", t.leaf + np.int32(5)),
    "a token beyond the vocabulary": lambda t: setattr(t, "tokens", np.append(t.tokens[:-1], np.int32(10**6))),
    "a negative token": lambda t: setattr(t, "tokens", np.append(t.tokens[:-1], np.int32(-1))),
    "start that falls": lambda t: setattr(t, "start", t.start[::-1].copy()),
    "start beyond the end": lambda t: setattr(t, "start", t.start + np.int32(1)),
    "shared of 255": lambda t: setattr(t, "shared", np.full_like(t.shared, 255)),
    "another border": lambda t: setattr(t, "border", t.border[::-1].copy()),
    "floats": lambda t: setattr(t, "leaf", t.leaf.astype(np.float32)),
    "no order": lambda t: setattr(t, "tokens", t.tokens[::-1].copy()),
    "vocab of 5": lambda t: setattr(t, "vocab", 5),
    "vocab of 2 ** 40": lambda t: setattr(t, "vocab", 2**40),
    "EOS inside": lambda t: setattr(t, "eos_token_id", int(t.tokens[0])),
    "empty": lambda t: [setattr(t, name, getattr(t, name)[:0]) for name in ("leaf", "shared", "border", "tokens")],
}  # fmt: skip


def crafted(what: Callable[[Trie], object], path: Path) -> None:
    grlm = toy_grlm()
    trie = toy_catalog().trie(grlm.tokenizer)
    what(trie)
    trie.save(path, toy_catalog().identifiers_hash)


@pytest.mark.parametrize("what", CRAFTED)
def test_a_trie_is_checked_for_what_it_claims(tmp_path: Path, what: str) -> None:
    crafted(CRAFTED[what], tmp_path / "t.trie")
    with pytest.raises(ValueError, match=r"t\.trie is no trie"):
        Trie.load(tmp_path / "t.trie")


def test_a_trie_of_other_paths_does_not_decide_what_is_recommended(tmp_path: Path) -> None:
    """Whole, in order, of the right catalog by its hash, and with the items exchanged."""
    grlm = toy_grlm()
    grlm.save_pretrained(tmp_path / "checkpoint")
    crafted(lambda t: setattr(t, "leaf", t.leaf[::-1].copy()), tmp_path / "checkpoint" / "catalog.trie")
    again = GRLMForRecommendation.from_pretrained(tmp_path / "checkpoint")
    assert [r.item_id for r in again.recommend(["i20"], 5)] == [r.item_id for r in grlm.recommend(["i20"], 5)]
