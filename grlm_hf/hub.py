"""To and from the Hugging Face Hub. Every push is one atomic commit; readers never see half of one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from grlm_hf.files import clean
from grlm_hf.layout import CARD, CARD_FOLDER, CATALOG_FILE, DATASET_FACTS, HERE, PLACE, PLOT, TRIE_FILE, VECTORS_FILE

# nothing that would be unpickled or run
_CHECKPOINT_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "*.prior", CATALOG_FILE, TRIE_FILE, VECTORS_FILE]
_PICTURES = tuple(f"{CARD_FOLDER}/{name}.png" for name in ("report", "comparisons", "slices", "training"))
# files of an earlier version that a push removes; a licence, a notebook or a picture that somebody added stays
_DATA = (".parquet", ".safetensors", ".json", ".trie", ".prior", PLOT, "quality.png", "quality.md", *_PICTURES)


def fetch_checkpoint(repo_id: str, *, revision: str | None = None, token: str | None = None) -> Path:
    """Downloads a model repository's checkpoint files (weights as safetensors only) and returns the local folder. Raises `ValueError` for a
    repository that cannot be read."""
    from huggingface_hub import snapshot_download

    with explained(repo_id):
        ignored = [f"{CARD_FOLDER}/*"]  # files that only the card uses
        return Path(snapshot_download(repo_id, revision=revision, token=token, allow_patterns=_CHECKPOINT_FILES, ignore_patterns=ignored))


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    repo_type: str = "model",
    private: bool = True,
    token: str | None = None,
    message: str = "",
    card: str | None = None,
) -> str:
    """Uploads a folder in one commit; returns the repository's URL. Creates the repository (private by default) if it does not exist.

    Large files are uploaded first; then one commit makes the whole new version visible. An interrupted push changes nothing for readers,
    and a second push continues with what was uploaded. In a repository that grlm-hf wrote before, the same commit removes data files that
    the folder does not hold; the card and other files stay.

    `card` is the text of README.md, in place of the folder's own.

    Raises:
        ValueError: no files; an illegal repository name; no permission to write; the repository is public and `private` is set, or the
            other way round; somebody else changed it during the push.
        ConnectionError: the Hub could not be reached, or the connection broke.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    folder = Path(folder)
    content: dict[str, Any] = {p.relative_to(folder).as_posix(): p for p in visible_files(folder)}
    if not content:
        raise ValueError(f"{folder} holds no files to push.")
    if card is None and (folder / CARD).is_file():
        card = card_text(folder / CARD)
    if card is not None:
        content[CARD] = placed(card, repo_id).encode()
    check_name(repo_id)
    api = HfApi(token=token)
    with _pushing(folder, repo_id):
        sdk = "gradio" if repo_type == "space" else None
        url = api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True, space_sdk=sdk)
        info = api.repo_info(repo_id, repo_type=repo_type)
        if private != bool(info.private):
            how = ("public", "Say that it may be (--public)") if private else ("private", "Make it public in its settings first")
            raise ValueError(f"{repo_id} exists and is {how[0]}. {how[1]}, or name another repository.")
        old = set(api.list_repo_files(repo_id, repo_type=repo_type, revision=info.sha))
        ours = bool(old & {CATALOG_FILE, DATASET_FACTS, f"checkpoint/{CATALOG_FILE}"})  # a Space may hold its checkpoint
        gone = sorted(name for name in old - set(content) if ours and name.endswith(_DATA))
        operations: list[Any] = [CommitOperationDelete(name) for name in gone]
        operations += [CommitOperationAdd(name, path) for name, path in sorted(content.items())]
        message = message or f"Upload {folder.name} with grlm-hf"
        api.create_commit(repo_id, operations, repo_type=repo_type, commit_message=message, parent_commit=info.sha)
    return str(url)


def placed(card: str, repo_id: str) -> str:
    """The card with the repository's name in its code examples."""

    def in_code(block: re.Match[str]) -> str:
        return block[0].replace(f'"{PLACE}"', f'"{repo_id}"').replace(f"\n{HERE}\n", f'\nrepo = "{repo_id}"\n')

    return re.sub(r"^```python\n.*?^```", in_code, card, flags=re.S | re.M)


def visible_files(folder: Path) -> list[Path]:
    """The files of a folder without hidden ones, to publish.

    Raises:
        ValueError: a link whose target is outside the folder (a secret, say): only the snapshots of the Hub's own cache link outside, to
            the blobs beside them.
    """
    inside = folder.resolve()
    cache = inside.parents[1] if inside.parent.name == "snapshots" else None  # models--ORG--NAME/snapshots/REVISION → ../../blobs
    found = []
    for path in sorted(folder.rglob("*")):
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        if any(parent.is_symlink() for parent in (path, *path.parents) if parent != folder and folder in parent.parents):
            try:
                target = path.resolve(strict=True)
            except (OSError, RuntimeError) as error:
                raise ValueError(f"{path} is a link that leads nowhere: {error}. Remove it, or publish another folder.") from error
            if not (target.is_relative_to(inside) or (cache and target.is_relative_to(cache / "blobs"))):
                raise ValueError(f"{path} is a link to {target}, outside the folder, and is not published. Remove it, or copy the file.")
        if path.is_file():
            found.append(path)
    return found


def check_card_files(folder: str | Path) -> None:
    """Raises ``ValueError`` if the card of a dataset folder names data files by a path that leaves it, or by an address."""
    import yaml

    path = Path(folder) / CARD
    if not path.is_file():
        return
    head = re.match(r"---\s*\n(.*?)\n---", card_text(path), re.DOTALL)
    try:
        header = yaml.safe_load(head[1]) if head else {}
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path} begins with broken YAML: {' '.join(str(error).split())[:200]}") from error
    configs = header.get("configs") if isinstance(header, dict) else None
    for config in configs if isinstance(configs, list) else ():
        for name in _strings([config.get(k) for k in ("data_files", "data_dir")] if isinstance(config, dict) else config):
            if "://" in name or name.startswith(("/", "~", "\\")) or ".." in Path(name).parts:
                raise ValueError(f"its card names the data file {name!r}, which is outside the folder, and is not read")


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _strings(part)


def check_inside(name: str, folder: str | Path) -> None:
    """Raises ``ValueError`` for a data file that a folder's card names and that is elsewhere: a card must not read other files."""
    path = Path(str(name).removeprefix("file://"))
    if "://" in str(path) or not path.resolve().is_relative_to(Path(folder).resolve()):
        raise ValueError(f"its card names the data file {str(name)!r}, which is outside the folder, and is not read")


def card_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from error


def check_name(repo_id: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"{repo_id!r} is no name for a repository; expected ORG/NAME. {error}") from error


@contextmanager
def explained(repo_id: str, wanted: str = CATALOG_FILE) -> Iterator[None]:
    """Turns the Hub's errors on reading a repository into a ``ValueError`` that says what to do."""
    from huggingface_hub import errors as hub

    try:
        yield
    except (hub.HFValidationError, hub.RevisionNotFoundError, hub.RepositoryNotFoundError, hub.EntryNotFoundError) as error:
        if isinstance(error, hub.HFValidationError):
            what = "is neither a folder here nor a Hub id like ORG/NAME"
        elif isinstance(error, hub.LocalEntryNotFoundError):
            what = "is no folder here, and the Hub could not be reached"
        elif isinstance(error, hub.RevisionNotFoundError):
            what = "has no such revision"
        elif isinstance(error, hub.RepositoryNotFoundError):
            what = "is no folder here, and no repository on the Hub that you may read (private? run `hf auth login`)"
        else:
            what = f"holds no {wanted}: it was not published by grlm-hf"
        raise ValueError(f"{repo_id!r} {what}.") from error


@contextmanager
def _pushing(folder: Path, repo_id: str) -> Iterator[None]:
    """Turns errors of a push into ones that say what readers see now, and what to do."""
    try:
        yield
    except ValueError:
        raise
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (409, 412):
            raise ValueError(
                f"Somebody else changed {repo_id} during this push, which therefore changed nothing. Look at its new version; to replace "
                "it, push again."
            ) from error
        if status in (401, 403, 404):
            raise ValueError(
                f"You may not write to {repo_id} ({clean(error)}). Is it the right name? Log in with a token that may: hf auth login."
            ) from error
        raise ConnectionError(
            f"The push of {folder} to {repo_id} broke off ({clean(error)}). Readers see the old version or all of this one, never a "
            "mixture. Push again: uploaded files are kept."
        ) from error
