"""Checks that all dataclasses of settings share: a field's annotation states its choices or its range.

    objective: Objective = "vocabulary"                 # a ``Literal``: one of its values
    dropout: Annotated[float, Range(0, below=1)] = 0.1  # a finite number of that range

`check_settings`, called by ``__post_init__``, compares each field with its annotation, so a wrong setting is refused when it is read and
not when a stage uses it hours later. OmegaConf understands the same annotations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Range:
    """The finite numbers from `least` to `most`, above `above` and below `below`; `text` describes them in an error."""

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    text: str = ""

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(number := float(value)):
            return False
        return self.least <= number <= self.most and self.above < number < self.below

    def __str__(self) -> str:
        if math.isfinite(self.least) and math.isfinite(self.most):
            return self.text or f"{self.least} to {self.most}"
        ends = (("at least", self.least), ("more than", self.above), ("at most", self.most), ("less than", self.below))
        return self.text or " and ".join(f"{word} {end}" for word, end in ends if math.isfinite(end)) or "a finite number"


Count = Annotated[int, Range(1)]
Size = Annotated[int, Range(1, 2**20)]
"""Of something that is in memory as a whole."""
Seed = Annotated[int, Range(0, 2**32 - 1)]
Limit = Annotated[int, Range(0)]
"""0 means none, or no limit; the field's docstring says which."""
Positive = Annotated[float, Range(above=0)]
NotNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, below=1)]


def check_settings(settings: Any, section: str = "") -> None:
    """Raises ``ValueError`` naming the first field of a dataclass whose value does not suit its annotation.

    Args:
        section: what precedes the field's name in a recipe, such as ``"train.lora."``.
    """
    for name, kind in get_type_hints(type(settings), include_extras=True).items():
        check_value(f"{section}{name}", getattr(settings, name), kind)


def check_value(name: str, value: Any, kind: Any) -> None:
    """Raises ``ValueError`` if a value is none of a ``Literal``'s, or not in the `Range` of an ``Annotated`` number.

    ``Annotated[float | None, Range(…)]`` allows ``None``, an ``int`` only whole numbers. Each value of a ``dict`` or ``list`` is checked.
    Other annotations allow everything.
    """
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise ValueError(f"{name} is {value!r}; expected one of {', '.join(map(repr, get_args(kind)))}.")
    elif get_origin(kind) is Annotated:
        base, span = get_args(kind)
        if value is None and type(None) in get_args(base):
            return
        if value not in span:
            raise ValueError(f"{name} is {value!r}; expected {span}.")
        if base is int and not isinstance(value, Integral):
            raise ValueError(f"{name} is {value!r}; expected a whole number.")
    elif get_origin(kind) is dict:
        for key, one in value.items():
            check_value(f"{name}.{key}", one, get_args(kind)[1])
    elif get_origin(kind) is list:
        for place, one in enumerate(value):
            check_value(f"{name}[{place}]", one, get_args(kind)[0])
