"""Functions of the user that a recipe names, as ``FILE.py:FUNCTION`` or ``package.module:FUNCTION``.

Reading a recipe only checks the form of such a name (`check_plugin`). Code runs where a stage that needs it runs (`load_plugin`): in
``grlm run``, ``grlm terms`` and ``grlm evaluate``. Files and recipes that huggingface_hub downloaded are refused, so nobody's code comes
with a repository.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from grlm_hf.files import check_regular, did_you_mean

_FORM = re.compile(r"(?P<place>(?:.*[^/:])?\.py|\w+(?:\.\w+)*):(?P<function>[^\W\d]\w*)")

ARGUMENTS = {"terms.function": ("items",), "evaluate.metrics": ("ranks",), "evaluate.methods": ("histories", "catalog")}
"""Setting → what its function is called with."""


@dataclass(frozen=True)
class Plugin:
    """A function of the user. An error inside it becomes a ``ValueError`` that names the function and the line."""

    setting: str  # the setting that names it, for errors
    name: str  # as the setting states it
    function: Callable[..., Any]
    source: str  # its file

    @property
    def called(self) -> str:
        """The function's name, which a report uses."""
        return self.name.rpartition(":")[2]

    def __call__(self, *args: Any, **optional: Any) -> Any:
        """Calls the function.

        Args:
            optional: passed where the function has a parameter of this name.
        """
        known = _parameters(self.function) or {}
        return self.guarded(self.function)(*args, **{name: value for name, value in optional.items() if name in known})

    def guarded(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that this one returned, with the same care for its errors."""

        def call(*args: Any, **kwargs: Any) -> Any:
            with _named(self.setting, self.name, self.source):
                return function(*args, **kwargs)

        return call

    def wrong(self, found: str, expected: str) -> ValueError:
        """The error for an answer of another form."""
        return ValueError(f"{self.setting}: {self.name} returned {found}; expected {expected}.")


def check_plugin(setting: str, name: str) -> None:
    """Raises ``ValueError`` unless `name` has the form of a plugin's name. Nothing is opened or imported."""
    if not _FORM.fullmatch(name):
        raise ValueError(f"{setting} is {name!r}; expected FILE.py:FUNCTION or package.module:FUNCTION, such as mine.py:my_function.")


def load_plugin(setting: str, name: str) -> Plugin:
    """Runs the file, or imports the module, and returns its function. A relative path is relative to the current folder.

    Raises:
        ValueError: no such file, module or function; an error in its code; a file that was downloaded from the Hub.
    """
    place, _, function = name.rpartition(":")
    check_plugin(setting, name)
    with _named(setting, name, place):
        module = _run_file(setting, Path(place)) if place.endswith(".py") else _imported(setting, place)
    found = getattr(module, function, None)
    if not callable(found):
        known = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        hint = did_you_mean(function, known, f"Its functions are {', '.join(known) or 'none'}.")
        raise ValueError(f"{setting}: {place} has no function {function!r}. {hint}")
    _check_arguments(setting, function, found)
    return Plugin(setting, name, found, str(getattr(module, "__file__", place)))


def load_plugins(setting: str, names: Sequence[str]) -> dict[str, Plugin]:
    """The plugins of a setting by the names of their functions. Raises ``ValueError`` for two of one name, and as `load_plugin`."""
    found: dict[str, Plugin] = {}
    for name in names:
        plugin = load_plugin(setting, name)
        if plugin.called in found:
            raise ValueError(f"{setting} names {found[plugin.called].name} and {name}, which a report would both call {plugin.called!r}.")
        found[plugin.called] = plugin
    return found


def plugin_files(names: Sequence[str]) -> list[Path]:
    """The files of plugins, whose content belongs to the key of a stage. A missing file is left to `load_plugin`."""
    places = [name.rpartition(":")[0] for name in names if name]
    files = [Path(place) if place.endswith(".py") else _module_file(place) for place in dict.fromkeys(places)]
    return [file for file in files if file is not None and file.is_file()]


def stated(name: str) -> str:
    """A plugin's name without its folder, for keys and records."""
    place, _, function = name.rpartition(":")
    return f"{Path(place).name}:{function}" if place else name


def beside(recipe: str | Path, name: str) -> str:
    """A plugin's name as a recipe file states it, with the folder of the recipe where the file is there."""
    place, colon, function = name.rpartition(":")
    file = Path(recipe).parent / place
    return f"{file}{colon}{function}" if place.endswith(".py") and not Path(place).is_absolute() and file.is_file() else name


def downloaded(path: str | Path) -> bool:
    """Whether huggingface_hub downloaded this file: it is in the cache, or its record is in the folder that it was downloaded to."""
    from huggingface_hub.constants import HF_HUB_CACHE

    path = Path(path).absolute()
    cache = Path(HF_HUB_CACHE)
    if any(one.is_relative_to(other) for one in (path, path.resolve()) for other in (cache.absolute(), cache.resolve())):
        return True
    records = (folder / ".cache/huggingface/download" / f"{path.relative_to(folder)}.metadata" for folder in path.parents)
    return any(record.is_file() for record in records)


def _check_arguments(setting: str, name: str, function: Callable[..., Any]) -> None:
    known, given = _parameters(function), ARGUMENTS.get(setting, ())
    if known is None:
        return
    parameters = [p for p in known.values() if (setting, p.name) != ("evaluate.methods", "seed")]  # which is passed by its name
    by_place = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    more = any(p.kind == p.VAR_POSITIONAL for p in parameters)
    needed = sum(p.default is p.empty for p in by_place)
    if needed > len(given) or (len(by_place) < len(given) and not more):
        found = ", ".join(map(str, parameters))
        raise ValueError(f"{setting}: found {name}({found}); expected {name}({', '.join(given)}).")


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter] | None:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # some that are written in C state none
        return None


@contextmanager
def _named(setting: str, name: str, source: str) -> Iterator[None]:
    """Errors of the code within, as a ``ValueError`` with the plugin and the last line in its file."""
    try:
        yield
    except _Refused as error:
        raise ValueError(str(error)) from None
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == source]
        line = error.lineno if isinstance(error, SyntaxError) and error.filename == source else lines[-1] if lines else None
        said = error.msg if isinstance(error, SyntaxError) else " ".join(str(error).split())
        where = f"{name}, line {line}" if line else name
        raise ValueError(f"{setting}: {where}: {type(error).__name__}: {said}") from error


class _Refused(ValueError):
    """An error of ours, not of the user's code."""


def _run_file(setting: str, path: Path) -> ModuleType:
    """The module of a file; run once for each content, without bytecode beside it."""
    try:
        check_regular(path)
        if downloaded(path):
            raise ValueError(f"{path} was downloaded from the Hub. Read it, and copy it into a folder of your own.")
    except ValueError as error:
        raise _Refused(f"{setting}: {error}") from error
    code = path.read_bytes()
    name = f"_grlm_plugin_{path.stem}_{hashlib.sha256(str(path.resolve()).encode() + code).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module  # dataclasses look their module up
    sys.path.append(str(path.parent.resolve()))  # for files that it imports; last, so that none hides an installed package
    try:
        exec(compile(code, str(path), "exec"), vars(module))
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.pop()
    return module


def _imported(setting: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # another module, which this one needs
        raise _Refused(f"{setting}: no module {error.name!r} is installed. Name a file with its ending: {name}.py:FUNCTION.") from None


def _module_file(name: str) -> Path | None:
    """The file of a module, found without importing it or the packages that it is in."""
    found, locations = None, None
    for n, _ in enumerate(parts := name.split("."), 1):
        found = PathFinder.find_spec(".".join(parts[:n]), locations)
        if found is None:
            return None
        locations = found.submodule_search_locations
        if locations is None and n < len(parts):
            return None
    return Path(found.origin) if found and found.origin else None
