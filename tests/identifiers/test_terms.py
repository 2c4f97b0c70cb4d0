"""What a Term ID is, in any language: one normal form, one written form, and reading it back."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from toys import TERM_IDS

from grlm_hf.identifiers.terms import TermID, normalise, parse, render, validate

# Any character; more often than by chance those that the written form uses, that Unicode composes, or that have several cases.
AWKWARD = "[]{}()<>|\"`,;:-_'. \n\t\x85\u2028\u200b\u200d\xad\u0301\u030c\u0338\u0345\u3099JHİΣςßǅﬁ½㍿か水éÉ१"
texts = st.text(st.one_of(st.characters(), st.sampled_from(AWKWARD)), max_size=12)
terms = st.one_of(texts, st.sampled_from(sum(TERM_IDS, ()))).map(normalise).filter(bool)
term_ids = st.lists(terms, min_size=1, max_size=6).map(tuple)


@pytest.mark.parametrize(
    ("text", "term"),
    [
        ("Long  Lasting", "long-lasting"),
        ("long_lasting", "long-lasting"),
        ("3D-Print", "3d-print"),
        ("Shampoos.", "shampoos"),
        ("e.l.f.", "e.l.f."),
        ("2.5", "2.5"),
        ("Café", "café"),
        ("Cafe\u0301", "café"),
        ("J\u030carek", "ǰarek"),
        ("ＳＯＮＹ", "sony"),
        ("水 性", "水-性"),
        ("हिन्दी", "हिन्दी"),
        ("العربية", "العربية"),
        ("co\u00adop\u200berate", "cooperate"),
        ("--'tis--", "tis"),
        ("a - b", "a-b"),
        ("L'Oréal", "l'oréal"),
        ("<|im_end|>", "im-end"),
        ("[red], (green)", "red-green"),
        ("1/2-Inch", "1/2-inch"),
        ("Şampuan İpek", "şampuan-ipek"),
        ("STRAẞE", "straße"),
        ("ΟΔΟΣ", "οδος"),
        ("शैम्पू।", "शैम्पू"),
        ("แชมพู สมุนไพร", "แชมพู-สมุนไพร"),
        ("洗发水，去屑", "洗发水-去屑"),
        ("شامبو، زيت", "شامبو-زيت"),
        ("שלום‏ עולם", "שלום-עולם"),
        ("한국어 샴푸", "한국어-샴푸"),
        ("H₂O", "h2o"),
        ("L’Oréal – “Paris”", "l'oréal-paris"),
        ("Coca-Cola®", "coca-cola"),
        ("red ❤️ heart👍🏽", "red-heart"),
        ("5️⃣ stars", "5-stars"),
        ("a ´ b", "a-b"),  # its compatible form is a space with an accent on it
        ("", ""),
        (" ,. ", ""),
        ("!?", ""),
        ("👍", ""),
    ],
)
def test_normal_form(text: str, term: str) -> None:
    assert normalise(text) == term


@settings(max_examples=1000, deadline=None)
@given(texts)
@example("J\u030c")  # has a composed form only in lower case
@example("a\u200d\u0301")  # a letter and its accent, kept apart by a character that is dropped
@example("a'.")
@example("a-.")
@example("=\u200b\u0338a")
@example("i\u0345\U000e0100\u0307")  # the dot comes to stand on its i only once what stood between is gone
def test_normalise_is_idempotent_and_clean(text: str) -> None:
    term = normalise(text)
    assert normalise(term) == term
    assert not set(term) & set('[]{}()<>|"`,;:_ \n\r\t')
    assert not any(c.isspace() or unicodedata.category(c) in ("Cf", "Cs", "Co", "Cn") for c in term)
    assert term == term.lower() == unicodedata.normalize("NFKC", term) == term.strip("-'")
    assert any(c.isalnum() for c in term) or not term


@settings(max_examples=500, deadline=None)
@given(texts)
def test_only_a_text_without_letter_or_digit_is_no_term(text: str) -> None:
    kept = (c for c in unicodedata.normalize("NFKC", text).lower() if unicodedata.category(c) not in ("Cn", "Co", "Cs"))
    assert bool(normalise(text)) == any(c.isalnum() for c in kept)


def test_every_character_alone_and_after_a_letter() -> None:
    for c in map(chr, (*range(0x10000), *range(0x10000, 0x30000, 13), *range(0xE0000, 0xE0200))):
        alone, after = normalise(c), normalise(f"a{c}")
        assert normalise(alone) == alone
        assert normalise(after) == after
        assert after[0] == "a" or unicodedata.category(c)[0] == "M"  # an accent composes with it


@given(texts)
def test_case_spacing_and_width_do_not_matter(text: str) -> None:
    plain = "".join(c for c in text if c.isascii())
    wide = "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in plain)
    assert normalise(plain) == normalise(plain.upper()) == normalise(f" {plain}\t") == normalise(wide)


def test_the_written_form() -> None:
    assert render(("hair", "long-lasting", "2.5")) == "[hair, long-lasting, 2.5]"


@settings(max_examples=500, deadline=None)
@given(term_ids, term_ids)
def test_what_is_rendered_is_parsed_again(tid: TermID, other: TermID) -> None:
    assert validate(tid) == tid
    written = render(tid)
    assert written.count("[") == written.count("]") == len(written.splitlines()) == 1
    assert parse(written) == tid
    assert parse(f"Next item: {written}\n{render(other)}\n") == tid  # the first one
    assert parse(written[1:]) == tid  # the prompt ended in "["
    assert parse(written[:-1]) == tid  # cut off
    assert parse(written[1:-1] + "\n") == tid


@given(*[st.lists(st.sampled_from(("a", "b", "a-b", "a.b")), min_size=1, max_size=3).map(tuple)] * 2)
def test_the_written_form_tells_term_ids_apart(a: TermID, b: TermID) -> None:
    assert (render(a) == render(b)) == (a == b)


@settings(max_examples=500, deadline=None)
@given(st.one_of(texts, st.lists(texts, max_size=6).map(", ".join).map("[{}]".format)))
def test_parsing_junk_gives_a_term_id_or_none(text: str) -> None:
    tid = parse(text)
    assert tid is None or validate(tid) == tid
    assert (tid is None) or parse(render(tid)) == tid


@given(st.lists(texts, max_size=6).map(tuple))
def test_rendering_junk_does_not_raise(junk: TermID) -> None:
    assert render(junk).startswith("[")
    parse(render(junk))


@pytest.mark.parametrize(
    ("text", "tid"),
    [
        ("", None),
        ("[]", None),
        ("[, ,]", None),
        ("\n\n", None),
        ("I would say [Red Wine,  Dry ,]", ("red-wine", "dry")),
        ("red wine, dry\nand more", ("red-wine", "dry")),
        ("[[red, dry]]", ("red", "dry")),
        ("[red]", ("red",)),
        ("[洗发水，去屑、草本]", ("洗发水", "去屑", "草本")),
        ("[شامبو، زيت]", ("شامبو", "زيت")),
    ],
)
def test_parse(text: str, tid: TermID | None) -> None:
    assert parse(text) == tid


@given(texts.filter(lambda t: normalise(t) != t or not t))
def test_validate_refuses_what_is_not_in_normal_form(text: str) -> None:
    with pytest.raises(ValueError, match="not a normalised term") as raised:
        validate(["red", text])
    assert repr(text) in str(raised.value)
    assert repr(normalise(text)) in str(raised.value)


@pytest.mark.parametrize(
    ("given_terms", "n_terms", "message"),
    [
        ([], None, "needs one or more terms; found 0"),
        (["a", "b"], 5, r"needs 5 terms; found 2: \['a', 'b'\]"),
        (["a", 3], None, "3 in .* is not a normalised term; expected '3'"),
        (["a", None], None, "None in"),
        ("shampoo", None, "Found the text 'shampoo'; expected a tuple of terms"),
    ],
)
def test_validate_refuses(given_terms: list, n_terms: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        validate(given_terms, n_terms)


def test_validate_accepts() -> None:
    assert validate(["a", "b"], 2) == ("a", "b")
    assert validate(iter(["a"])) == ("a",)
    assert [validate(tid, 5) for tid in TERM_IDS] == TERM_IDS
