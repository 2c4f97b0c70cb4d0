"""Embeddings: the embedder that needs no download, prompts, shards that outlive a kill, several devices, NaN."""

from __future__ import annotations

import copy
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import forks
import numpy as np
import pytest

from grlm_hf.data.items import Item
from grlm_hf.indexing.embedding import Shards, device_names, embed, fingerprint, item_text, load_embedder, prompt_text, tfidf_embedder

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

TITLES = ("red soap", "pink soap", "mint shampoo", "red shampoo", "copper pipe", "copper fitting", "mint soap", "pink pipe")
WORDS = sorted({word for title in TITLES for word in title.split()} | {"find", "similar", "store"})


def catalog(titles: Sequence[str] = TITLES) -> list[Item]:
    return [Item(f"i{n}", title) for n, title in enumerate(titles)]


def model_of(seed: int = 0, nan: str = "", **options: Any) -> SentenceTransformer:
    """Random word vectors; a text with the word `nan` becomes NaN."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["?", *WORDS])}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    rows = np.random.default_rng(seed).standard_normal((len(WORDS) + 1, 16)).astype(np.float32)
    if nan:
        rows[1 + WORDS.index(nan)] = np.nan
    return SentenceTransformer(modules=[StaticEmbedding(tokenizer, rows)], device="cpu", **options)


def spied(model: SentenceTransformer) -> list[str]:
    """The texts that the model is asked to encode from now on."""
    seen: list[str] = []
    real = model.encode_document

    def encode_document(texts: list[str], **options: Any) -> Any:
        seen.extend(texts)
        return real(texts, **options)

    model.encode_document = encode_document  # type: ignore[method-assign]
    return seen


def test_the_default_embedders_cosines_are_those_of_tfidf() -> None:
    text = pytest.importorskip("sklearn.feature_extraction.text")
    texts = [item_text(item) for item in catalog()]
    vectors = embed(catalog())
    want = text.TfidfVectorizer(token_pattern=r"[^\W_]+", min_df=2).fit_transform(texts).toarray()
    np.testing.assert_allclose(vectors @ vectors.T, want @ want.T, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_the_projection_estimates_the_cosines_and_is_seeded() -> None:
    rng = np.random.default_rng(1)
    items = [Item(str(n), " ".join(f"word{w}" for w in rng.integers(0, 400, 12))) for n in range(150)]
    texts = [item_text(item) for item in items]
    exact, projected = embed(items, tfidf_embedder(texts, dim=10_000)), embed(items, tfidf_embedder(texts, dim=256))
    assert projected.shape == (150, 256)
    assert exact.shape[1] > 256
    error = (projected @ projected.T - exact @ exact.T)[np.triu_indices(150, 1)]
    assert abs(error.mean()) < 0.01
    assert error.std() < 0.09
    np.testing.assert_array_equal(projected, embed(items, tfidf_embedder(texts[::-1], dim=256)))
    assert not np.array_equal(projected, embed(items, tfidf_embedder(texts, dim=256, seed=1)))


def test_a_saved_embedder_is_named_by_its_folder(tmp_path: Path) -> None:
    items = catalog()
    tfidf_embedder([item_text(item) for item in items]).save(str(tmp_path / "embedder"))
    np.testing.assert_allclose(embed(items, str(tmp_path / "embedder")), embed(items), atol=1e-6)


def test_item_text_has_title_brand_categories_and_description() -> None:
    item = Item("a", "Red Soap", "Acme", ("Beauty", "Soaps"), "Smells of roses.")
    assert item_text(item) == "Red Soap\nAcme\nBeauty > Soaps\nSmells of roses."
    assert item_text(Item("a", " ")) == ""


@pytest.mark.parametrize("size", [1, 3, 8, 100])
def test_shards_on_disk_change_nothing(size: int, tmp_path: Path) -> None:
    items, model = catalog(), model_of()
    shards = embed(items, model, shard_size=size, work=tmp_path)
    assert isinstance(shards, Shards)
    assert len(list(tmp_path.iterdir())) == -(-8 // size)
    np.testing.assert_array_equal(np.asarray(shards), embed(items, model))
    assert (shards.shape, len(shards)) == ((8, 16), 8)
    whole, at = np.asarray(shards), np.array([[7, 0], [3, 3]])
    np.testing.assert_array_equal(shards[at], whole[at])
    np.testing.assert_array_equal(shards[2:7], whole[2:7])
    assert shards[np.array([], dtype=int)].shape == (0, 16)


def test_only_what_changed_is_encoded_again(tmp_path: Path) -> None:
    model, items = model_of(), catalog()

    def encoded(items: list[Item], **options: Any) -> int:
        model.__dict__.pop("encode_document", None)
        seen = spied(model)
        vectors = embed(items, model, shard_size=3, work=tmp_path, **options)
        count = len(seen)
        np.testing.assert_array_equal(np.asarray(vectors), embed(items, model, **options))
        return count

    assert encoded(items) == 8
    assert encoded(items) == 0
    assert encoded([*items, Item("new", "pink fitting")]) == 3  # the last shard had two
    assert encoded([*items, Item("new", "pink fitting")]) == 0
    assert encoded([items[0], Item("i1", "copper soap"), *items[2:]]) == 5  # the first, and the last
    assert encoded(items[:3]) == 3
    assert len(list(tmp_path.iterdir())) == 1  # the others are of a larger catalog
    assert encoded(items[:3], prompt="find similar: ") == 3


def test_shards_of_another_model_are_never_used(tmp_path: Path) -> None:
    embed(catalog(), model_of(0), shard_size=3, work=tmp_path)
    np.testing.assert_array_equal(np.asarray(embed(catalog(), model_of(1), shard_size=3, work=tmp_path)), embed(catalog(), model_of(1)))


def test_a_shard_that_is_broken_or_of_another_place_is_made_again(tmp_path: Path) -> None:
    model = model_of()
    want = embed(catalog(), model)
    embed(catalog(), model, shard_size=3, work=tmp_path)
    first, second, third = sorted(tmp_path.iterdir())
    whole = first.read_bytes()
    first.write_bytes(whole[:-5])
    second.write_bytes(whole)
    third.write_bytes(b"")
    np.testing.assert_array_equal(np.asarray(embed(catalog(), model, shard_size=3, work=tmp_path)), want)


SLOW = """
import sys, time
sys.path[:0] = sys.argv[2:]
from test_embedding import catalog, embed, model_of
model = model_of()
real = model.encode_document
model.encode_document = lambda texts, **options: (time.sleep(0.3), real(texts, **options))[1]
embed(catalog(), model, shard_size=1, work=sys.argv[1])
"""


def test_a_killed_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    with forks.Process(SLOW, str(tmp_path), *map(str, Path(__file__).parents[:2])) as process:
        while process.running() and len(list(tmp_path.glob("*.safetensors"))) < 3:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait().returncode == -signal.SIGKILL
    done = len(list(tmp_path.glob("*.safetensors")))
    assert 3 <= done < 8
    model = model_of()
    seen = spied(model)
    vectors = embed(catalog(), model, shard_size=1, work=tmp_path)
    assert seen == list(TITLES[done:])
    np.testing.assert_array_equal(np.asarray(vectors), embed(catalog(), model_of()))


def test_several_devices_give_what_one_gives(tmp_path: Path) -> None:
    model = model_of(prompts={"document": "store "})
    want = embed(catalog(), model)
    vectors = embed(catalog(), model, devices="cpu, cpu", shard_size=5, work=tmp_path)
    np.testing.assert_array_equal(np.asarray(vectors), want)
    np.testing.assert_array_equal(embed(catalog(), model, devices="cpu"), want)


QWEN = {"query": "find similar: ", "document": ""}


@pytest.mark.parametrize(
    ("options", "asked", "want"),
    [
        ({}, "", ""),
        ({"prompts": QWEN}, "", ""),
        ({"prompts": QWEN, "default_prompt_name": "query"}, "", ""),  # items are no queries
        ({"prompts": QWEN}, "query", "find similar: "),
        ({"prompts": QWEN}, "find similar store: ", "find similar store: "),
        ({"prompts": {"query": "q: ", "passage": "store "}}, "", "store "),
        ({"prompts": {"item": "store "}, "default_prompt_name": "item"}, "", "store "),
        ({"prompts": {"document": None}}, "document", ""),
    ],
)
def test_the_prompt_is_the_models_own_or_the_one_asked_for(options: dict, asked: str, want: str) -> None:
    model = model_of(**options)
    assert prompt_text(model, asked) == want
    prefixed = [Item(item.item_id, want + item.title) for item in catalog()]
    np.testing.assert_allclose(embed(catalog(), model, prompt=asked), embed(prefixed, model_of()), atol=1e-6)
    assert want == "" or not np.allclose(embed(catalog(), model, prompt=asked), embed(catalog(), model_of()))


def test_a_causal_lm_pooled_at_its_last_token(tmp_path: Path) -> None:
    """Of Qwen3-Embedding's form: padded on the left, so that the last position is the text's in every row."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling
    from toys import toy_model, toy_tokenizer

    toy_model().save_pretrained(tmp_path / "lm")
    tokenizer = copy.deepcopy(toy_tokenizer())  # the toy is shared
    tokenizer.padding_side = "left"
    tokenizer.save_pretrained(tmp_path / "lm")
    parts = [Transformer(str(tmp_path / "lm")), Pooling(32, "lasttoken")]
    SentenceTransformer(modules=parts, prompts=QWEN, device="cpu").save(str(tmp_path / "model"))
    name = str(tmp_path / "model")
    items = catalog(("tent", "small tent with a camping light", "lamp, led light", "tent"))

    one, four = (embed(items, name, batch_size=size, work=tmp_path / f"work{size}") for size in (1, 4))
    np.testing.assert_allclose(np.asarray(one), np.asarray(four), atol=1e-5)
    np.testing.assert_array_equal(np.asarray(four)[0], np.asarray(four)[3])
    assert not np.allclose(np.asarray(four), embed(items, name, prompt="query"), atol=1e-3)

    cut = load_embedder(name, max_tokens=2)
    same = embed(catalog(("tent camping", "tent camping light lamp")), cut)
    np.testing.assert_allclose(same[0], same[1], atol=1e-5)
    assert fingerprint(cut) != fingerprint(load_embedder(name))
    half = load_embedder(name, dtype="bfloat16")
    assert {weight.dtype.itemsize for weight in half.parameters()} == {2}
    assert embed(items, half).dtype == np.float32
    np.testing.assert_allclose(embed(items, half), np.asarray(four), atol=0.1)


def test_a_prompt_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no prompt 'documnet'; it has \['document', 'query'\]"):
        embed(catalog(), model_of(prompts=QWEN), prompt="documnet")


def test_an_empty_text_is_zero_whatever_stands_before_it() -> None:
    vectors = embed([Item("a", "red soap"), Item("b", " ")], model_of(prompts={"document": "store "}))
    assert vectors[0].any()
    assert not vectors[1].any()


def test_embeddings_that_are_not_finite_name_their_items_and_leave_the_shards_before_them(tmp_path: Path) -> None:
    model = model_of(nan="copper")
    with pytest.raises(ValueError, match=r"2 of 2 embeddings.*'i4', 'i5'"):
        embed(catalog(), model, shard_size=2, work=tmp_path)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["vectors-00000.safetensors", "vectors-00001.safetensors"]


def test_the_fingerprint_is_of_what_the_model_does(tmp_path: Path) -> None:
    model, other = model_of(), model_of()
    before = fingerprint(model)
    model.encode(list(TITLES))
    model.save(str(tmp_path / "model"))
    assert fingerprint(model) == before == fingerprint(load_embedder(str(tmp_path / "model"), device="cpu"))
    other[0].embedding.weight.data[3, 0] += 1e-6
    assert fingerprint(other) != before
    assert len({fingerprint(tfidf_embedder(texts)) for texts in (["a b", "a b"], ["a c", "a c"])}) == 2  # the same weights


def test_a_model_without_a_limit_takes_none(tmp_path: Path) -> None:
    model_of().save(str(tmp_path / "model"))
    with pytest.raises(ValueError, match="leave max_tokens at 0"):
        load_embedder(str(tmp_path / "model"), max_tokens=32)


def test_no_items_and_no_shards_are_refused() -> None:
    with pytest.raises(ValueError, match="no items to embed"):
        embed([])
    with pytest.raises(ValueError, match="shard_size must be at least 1"):
        embed(catalog(), shard_size=0)


def test_a_model_or_device_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match=r"embedder './nowhere' is neither a folder"):
        load_embedder("./nowhere")
    with pytest.raises(ValueError, match="'gpu0' is not a device"):
        device_names("cpu, gpu0")
    assert device_names("cpu, cpu,") == ["cpu", "cpu"]
