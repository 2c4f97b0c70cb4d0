"""A small shop with all fields, texts that try to break out of a page, and a checkpoint of it with random weights."""

from __future__ import annotations

from pathlib import Path

from toys import TERM_IDS, toy_model, toy_tokenizer

from grlm_hf import Catalog, GRLMForRecommendation, Item
from grlm_hf.modeling.config import GRLMConfig
from grlm_hf.space.session import Shop
from grlm_hf.tasks.prompts import prompt_hash
from grlm_hf.tokens import tokenizer_hash

HOSTILE = "Tent <script>document.title='broken'</script> <img src=x onerror=\"document.title='broken'\"> ${1+1} {{this}} \" '"


def space_catalog() -> Catalog:
    items = []
    for n, terms in enumerate(TERM_IDS):
        title = HOSTILE if n == 0 else f"Title {n} {terms[0]}"
        price, domain = (None, "Café & <b>Co</b>") if n == 11 else (10.0 * n, "Camp" if n < 6 else "Home")
        items.append(Item(f"i{20 - n}", title, "Brand", (domain, terms[1]), " ".join(terms), price, domain))
    return Catalog(items, TERM_IDS)


def space_grlm(seed: int = 0, objective: str = "trie", exclude_seen: bool = False) -> GRLMForRecommendation:
    tokenizer = toy_tokenizer()
    config = GRLMConfig(4, prompt_hash(), tokenizer_hash(tokenizer), objective, exclude_seen=exclude_seen)
    return GRLMForRecommendation(toy_model(seed), tokenizer, space_catalog(), config)


def space_shop(compare: bool = False) -> Shop:
    return Shop({"one": space_grlm(exclude_seen=True), **({"two": space_grlm(3, exclude_seen=True)} if compare else {})})


def saved(folder: Path, seed: int = 0) -> Path:
    space_grlm(seed).save_pretrained(folder)
    return folder
