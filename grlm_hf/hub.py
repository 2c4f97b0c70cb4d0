"""To and from the Hugging Face Hub. Every push is one atomic commit; readers never see half of one."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grlm_hf.catalog import CATALOG_FILE, TRIE_FILE, Catalog, load_items, load_term_ids
from grlm_hf.files import clean
from grlm_hf.publishing.cards import CARD, PLACE, catalog_card
from grlm_hf.publishing.folder import DATASET_FACTS, PLOT, check_folder, read_facts
from grlm_hf.publishing.licenses import licensed
from grlm_hf.publishing.model_card import model_card
from grlm_hf.publishing.record import CARD_FOLDER, recorded

if TYPE_CHECKING:
    from datasets import Dataset

# nothing that would be unpickled or run
_CHECKPOINT_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "*.prior", CATALOG_FILE, TRIE_FILE]
_PICTURES = tuple(f"{CARD_FOLDER}/{name}.png" for name in ("report", "comparisons", "slices", "training"))
# what a push removes of an earlier version; a licence, a notebook or a picture that somebody added there stays
_DATA = (".parquet", ".safetensors", ".json", ".trie", ".prior", PLOT, "quality.png", "quality.md", *_PICTURES)


# --- reading -------------------------------------------------------------------------------------------------------------------------


def fetch_checkpoint(repo_id: str, *, revision: str | None = None, token: str | None = None) -> Path:
    """Downloads a model repository's checkpoint files (weights as safetensors only) and returns the local folder.

    Raises:
        ValueError: neither a folder nor a repository that can be read.
    """
    from huggingface_hub import snapshot_download

    with _explained(repo_id):
        wanted, told = _CHECKPOINT_FILES, [f"{CARD_FOLDER}/*"]  # the card's files are for people
        return Path(snapshot_download(repo_id, revision=revision, token=token, allow_patterns=wanted, ignore_patterns=told))


def fetch_catalog(repo_id: str, *, revision: str | None = None, token: str | None = None) -> Catalog:
    """The catalog of a repository: the ``catalog.parquet`` of a dataset or else of a model, or else the tables ``items`` and ``term_ids``
    of a dataset, whoever wrote them.

    Raises:
        ValueError: there is no such repository or it holds none of these; or an item has no Term ID.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, RemoteEntryNotFoundError, RepositoryNotFoundError

    is_dataset = True
    with _explained(repo_id):
        try:
            found = hf_hub_download(repo_id, CATALOG_FILE, repo_type="dataset", revision=revision, token=token)
        except (RepositoryNotFoundError, EntryNotFoundError) as error:
            is_dataset = isinstance(error, RemoteEntryNotFoundError)
            try:
                found = hf_hub_download(repo_id, CATALOG_FILE, revision=revision, token=token)
            except (RepositoryNotFoundError, RemoteEntryNotFoundError):
                if not is_dataset:
                    raise
                found = ""
    return Catalog.from_pretrained(found) if found else catalog_from_tables(repo_id, revision, token)


def catalog_from_tables(repo_id: str, revision: str | None = None, token: str | None = None) -> Catalog:
    """The catalog that the tables ``items`` and ``term_ids`` of a dataset folder or repository make. Raises as `fetch_catalog` does."""
    from datasets import concatenate_datasets, load_dataset
    from datasets.exceptions import DatasetsError

    with tempfile.TemporaryDirectory() as work:
        for table in ("items", "term_ids"):
            try:
                # a cache of its own: the common one takes a local folder that has changed since for the same
                splits = load_dataset(repo_id, table, revision=revision, token=token, cache_dir=work)
            except (ValueError, FileNotFoundError, DatasetsError) as error:
                raise ValueError(f"{repo_id!r} holds no {CATALOG_FILE}, nor a table {table!r} to make a catalog of: {error}") from error
            concatenate_datasets(list(splits.values())).to_parquet(str(Path(work) / f"{table}.parquet"))
        try:
            items, term_ids = load_items(Path(work) / "items.parquet"), load_term_ids(Path(work) / "term_ids.parquet")
        except ValueError as error:
            raise ValueError(str(error).replace(f"{work}/", f"{repo_id}, table ").replace(".parquet", "")) from error
    if missing := [item.item_id for item in items if item.item_id not in term_ids]:
        raise ValueError(
            f"{repo_id!r}: {len(missing)} of the {len(items)} items in its table 'items' have no Term ID in 'term_ids', such as "
            f"{missing[:3]}. The two tables must be of the same items."
        )
    return Catalog(items, [term_ids[item.item_id] for item in items])


def load_table(path_or_repo: str | Path, config: str, split: str) -> Dataset:
    """One split of a table of a dataset folder or repository. Raises ``ValueError`` if there is no such table."""
    from datasets import load_dataset

    try:
        return load_dataset(str(path_or_repo), config, split=split)
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(f"{path_or_repo} holds no table {config!r} with a split {split!r}: {error}") from error


def dataset_facts(path_or_repo: str | Path) -> dict[str, Any]:
    """``grlm_dataset.json`` of a dataset folder or repository. Raises ``ValueError`` if there is none, or of a newer schema."""
    path = Path(path_or_repo) / DATASET_FACTS
    if not path.is_file():
        if Path(path_or_repo).exists():
            raise ValueError(f"{path_or_repo} holds no {DATASET_FACTS}: it is no dataset folder of `grlm dataset`.")
        from huggingface_hub import hf_hub_download

        with _explained(str(path_or_repo), DATASET_FACTS):
            path = Path(hf_hub_download(str(path_or_repo), DATASET_FACTS, repo_type="dataset"))
    return read_facts(path)


# --- writing -------------------------------------------------------------------------------------------------------------------------


def publish(
    folder: str | Path,
    repo_id: str,
    *,
    license: str | None = None,
    license_name: str = "",
    license_link: str = "",
    private: bool = True,
    dry_run: bool = False,
    token: str | None = None,
) -> str:
    """Pushes what a folder holds: a checkpoint as a model repository, a dataset or catalog folder as a dataset repository.

    Nothing is published without a licence: `license` goes into the card's YAML in the same commit, unless the card states one already.

    Args:
        license: an id of the Hub's list, such as ``cc-by-4.0``; or ``other`` with a name and a link
            (`grlm_hf.publishing.licenses.license_fields`).

    Returns:
        The URL, or with `dry_run` the list of files and the card as it would be there.

    Raises:
        ValueError: the folder holds none of these, or not all of it; the card tells of another version of the checkpoint; no
            licence, or none that the Hub would read (a dry run tells of a missing one instead); and as `push_folder`.
    """
    folder = Path(folder)
    if (folder / "grlm_config.json").is_file():
        repo_type = "model"
    elif (folder / CATALOG_FILE).is_file():
        repo_type = "dataset"
    else:
        raise ValueError(f"{folder} holds neither a checkpoint (grlm_config.json) nor a dataset or catalog ({CATALOG_FILE}).")
    _check_name(repo_id)
    catalog = Catalog.from_pretrained(folder)  # a broken one is not published
    if (folder / DATASET_FACTS).is_file():
        check_folder(folder)
    if repo_type == "model":
        recorded(folder)  # figures of other weights are not published
    if (folder / CARD).is_file():
        card = _card_text(folder / CARD)
    else:
        card = catalog_card(catalog, repo_id) if repo_type == "dataset" else model_card(folder, title=repo_id.split("/")[-1])
    try:
        card, said = licensed(card, license, license_name, license_link)
    except ValueError as error:
        if license or not dry_run:
            raise
        said = f"none yet. {error}"
    linked = re.search(r"^license_link: (LICENSE\S*)$", card, re.MULTILINE)
    if linked and not (folder / linked[1]).is_file():
        raise ValueError(f"The licence links to {linked[1]}, a file that {folder} does not hold. Put it there, or give a URL.")
    if dry_run:
        card = _placed(card, repo_id)
        sizes = {p.relative_to(folder).as_posix(): p.stat().st_size for p in _visible_files(folder)} | {CARD: len(card.encode())}
        listed = (f"  {name}  {size:,} bytes" for name, size in sorted(sizes.items()))
        return "\n".join([f"{repo_type} {repo_id}:", *listed, f"licence: {said}", "", card])
    return push_folder(folder, repo_id, repo_type=repo_type, private=private, token=token, card=card)


def push_catalog(catalog: Catalog, repo_id: str, *, private: bool = True, token: str | None = None) -> str:
    """Publishes a catalog as a dataset repository that ``load_dataset`` and ``Catalog.from_pretrained`` both read."""
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "catalog"
        catalog.save_pretrained(folder)
        return push_folder(folder, repo_id, repo_type="dataset", private=private, token=token, card=catalog_card(catalog, repo_id))


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
    """Uploads a folder in one commit, creating the repository (private unless said otherwise) if need be; returns its URL.

    Large files are uploaded first, then one commit shows all of the new version at once. Broken off, it leaves readers what they had; what
    was uploaded is kept, so a second push goes on from there. In a repository that grlm-hf wrote before, data files that the folder no
    longer holds are removed in the same commit; its card and what is not data stay.

    Args:
        card: goes there as README.md in the place of the folder's own.

    Raises:
        ValueError: no files; a name that no repository can have; no right to write there; the repository exists and is public where a
            private one was asked for, or the other way round; somebody else changed it during the push.
        ConnectionError: the Hub could not be reached, or broke off.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    folder = Path(folder)
    content: dict[str, Any] = {p.relative_to(folder).as_posix(): p for p in _visible_files(folder)}
    if not content:
        raise ValueError(f"{folder} holds no files to push.")
    if card is None and (folder / CARD).is_file():
        card = _card_text(folder / CARD)
    if card is not None:
        content[CARD] = _placed(card, repo_id).encode()
    _check_name(repo_id)
    api = HfApi(token=token)
    with _pushing(folder, repo_id):
        sdk = "gradio" if repo_type == "space" else None
        url = api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True, space_sdk=sdk)
        info = api.repo_info(repo_id, repo_type=repo_type)
        if private != bool(info.private):
            how = ("public", "Say that it may be (--public)") if private else ("private", "Make it public in its settings first")
            raise ValueError(f"{repo_id} exists and is {how[0]}. {how[1]}, or name another repository.")
        there = set(api.list_repo_files(repo_id, repo_type=repo_type, revision=info.sha))
        ours = bool(there & {CATALOG_FILE, DATASET_FACTS, f"checkpoint/{CATALOG_FILE}"})  # a Space may hold its checkpoint
        gone = sorted(name for name in there - set(content) if ours and name.endswith(_DATA))
        operations: list[Any] = [CommitOperationDelete(name) for name in gone]
        operations += [CommitOperationAdd(name, path) for name, path in sorted(content.items())]
        said = message or f"Upload {folder.name} with grlm-hf"
        api.create_commit(repo_id, operations, repo_type=repo_type, commit_message=said, parent_commit=info.sha)
    return str(url)


def _placed(card: str, repo_id: str) -> str:
    """The card with the repository's name in its code."""
    return re.sub(r"^```python\n.*?^```", lambda m: m[0].replace(f'"{PLACE}"', f'"{repo_id}"'), card, flags=re.S | re.M)


def _visible_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and not any(part.startswith(".") for part in p.relative_to(folder).parts))


def _card_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from error


def _check_name(repo_id: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"{repo_id!r} is no name for a repository; expected ORG/NAME. {error}") from error


@contextmanager
def _explained(repo_id: str, wanted: str = CATALOG_FILE) -> Iterator[None]:
    """Turns the Hub's errors about a repository that is read into a ``ValueError`` that says what to do."""
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
    """Says of a failed push what readers see now, and what to do."""
    try:
        yield
    except ValueError:
        raise
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (409, 412):
            raise ValueError(
                f"Somebody else changed {repo_id} during this push, which therefore changed nothing. Look at what is there now; to replace "
                "it, push again."
            ) from error
        if status in (401, 403, 404):
            raise ValueError(
                f"You may not write to {repo_id} ({clean(error)}). Is it the right name? Log in with a token that may: hf auth login."
            ) from error
        raise ConnectionError(
            f"The push of {folder} to {repo_id} broke off ({clean(error)}). Readers see what was there before, or all of this version, "
            "never a mixture. Push again: what was uploaded is kept."
        ) from error
