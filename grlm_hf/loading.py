"""Models and tokenizers of folders and of the Hub, loaded without running code of theirs, with errors of one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LONGEST_TEMPLATE = 200_000
"""Characters of a chat template."""
_LARGEST = 10_000  # of a number in a template
_MOST_FILE = 2**28  # bytes of a tokenizer's or a config's JSON file


@contextmanager
def one_line_errors(what: str, place: Any) -> Iterator[None]:
    """Turns what a library raises for a broken file into a ``ValueError`` of one line; memory that runs out stays what it is."""
    try:
        yield
    except (ImportError, MemoryError, ConnectionError):
        raise
    except ValueError as error:
        if "\n" not in str(error) and str(place) in str(error):  # one of our own
            raise
        raise ValueError(_told(what, place, error)) from error
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":
            raise
        raise ValueError(_told(what, place, error)) from error


def _told(what: str, place: Any, error: Exception) -> str:
    text = " ".join(str(error).split())
    if "trust_remote_code" in text:
        text = "it needs code of its own, which is never run here. Use a model that transformers knows"
    kind = "" if isinstance(error, ValueError | OSError) else f" ({type(error).__name__})"
    return f"The {what} of {place} cannot be loaded{kind}: {text[:400]}"


def load_tokenizer(place: Any, **more: Any) -> Any:
    """``AutoTokenizer.from_pretrained`` of a folder or Hub id. Raises `ValueError` for a broken one, or a chat template that is broken or
    could compute without end."""
    from transformers import AutoTokenizer

    with one_line_errors("tokenizer", place):
        _check_files(place)
        tokenizer = AutoTokenizer.from_pretrained(place, **more, trust_remote_code=False)
        for template in _templates(getattr(tokenizer, "chat_template", None)):
            check_template(template)
    return tokenizer


def load_causal_lm(place: Any, **more: Any) -> Any:
    """``AutoModelForCausalLM.from_pretrained`` of a folder or Hub id. Raises `ValueError` for a broken one."""
    from transformers import AutoModelForCausalLM

    with one_line_errors("model", place):
        _check_files(place)
        return AutoModelForCausalLM.from_pretrained(place, **more, trust_remote_code=False)


def _check_files(place: Any) -> None:
    """Raises ``ValueError`` for files of a local folder that are none (opening a pipe would wait for ever), or of a senseless size."""
    folder = Path(place)
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.is_dir():
            continue
        if not path.is_file():
            raise ValueError(f"{path.name} is no file (a pipe, or a link to nothing?)")
        if path.suffix in (".json", ".jinja", ".txt") and path.stat().st_size > _MOST_FILE:
            raise ValueError(f"{path.name} has {path.stat().st_size:,} bytes; expected at most {_MOST_FILE:,}")


def _templates(found: Any) -> list[str]:
    return [t for t in (found.values() if isinstance(found, dict) else [found]) if isinstance(t, str)]


def check_template(template: str) -> None:
    """Raises ``ValueError`` for a chat template that is no Jinja, or whose numbers and loops could fill the memory: transformers' sandbox
    keeps a template from files and processes, not from ``'a' * 10 ** 10``."""
    from jinja2 import Environment, TemplateError, nodes
    from jinja2.ext import Extension, loopcontrols

    class Generation(Extension):
        tags = frozenset({"generation"})  # type: ignore[assignment]  # transformers' own

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    if len(template) > LONGEST_TEMPLATE:
        raise ValueError(f"its chat template has {len(template):,} characters; expected at most {LONGEST_TEMPLATE:,}")
    try:
        parsed = Environment(extensions=[Generation, loopcontrols]).parse(template)  # compiling it would compute its constants
    except (TemplateError, RecursionError) as error:
        raise ValueError(f"its chat template is broken: {error}") from error
    for number in parsed.find_all(nodes.Const):
        if isinstance(number.value, int | float) and abs(number.value) > _LARGEST:
            raise ValueError(f"its chat template has the number {number.value}, which no chat needs")
    if next(parsed.find_all(nodes.Pow), None) or sum(1 for _ in parsed.find_all(nodes.Mul)) > 2:
        raise ValueError("its chat template multiplies, which no chat needs")
    if _depth(parsed) > 4:
        raise ValueError("its chat template has loops within loops within loops within loops, which no chat needs")


def _depth(node: Any) -> int:
    from jinja2 import nodes

    below = max((_depth(child) for child in node.iter_child_nodes()), default=0)
    return below + isinstance(node, nodes.For)
