"""Publishes a folder on the Hub: a checkpoint, a dataset or a catalog, with its card and a licence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from grlm_hf.data.catalog import Catalog, catalog_card
from grlm_hf.hub import card_text, check_name, placed, push_folder, visible_files
from grlm_hf.layout import CARD, CATALOG_FILE, CONFIG_FILE, DATASET_FACTS
from grlm_hf.modeling.config import GRLMConfig
from grlm_hf.publishing.counting_card import counting_card
from grlm_hf.publishing.folder import check_folder
from grlm_hf.publishing.licenses import license_card
from grlm_hf.publishing.model_card import model_card
from grlm_hf.publishing.record import recorded


@dataclass(frozen=True)
class Published:
    """The content of a push, or of a dry run."""

    repo_type: str
    repo_id: str
    url: str | None  # None after a dry run
    files: Mapping[str, int]  # name → size in bytes
    license: str  # the id in the card; after a dry run possibly the reason why the card has none
    card: str  # README.md in the repository

    def listing(self) -> str:
        """The files, the licence and the card, for people."""
        sizes = (f"  {name}  {size:,} bytes" for name, size in self.files.items())
        return "\n".join([f"{self.repo_type} {self.repo_id}:", *sizes, f"licence: {self.license}", "", self.card])


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
) -> Published:
    """Pushes a folder: a checkpoint as a model repository, a dataset or catalog folder as a dataset repository.

    Args:
        license: of the card, required unless the card has one; see `grlm_hf.publishing.licenses.license_fields`.
        dry_run: upload nothing; a missing licence is then reported in `Published.license`.

    Raises `ValueError` for another or an incomplete folder, figures of another version of the checkpoint, and a licence that is missing or
    that the Hub would not read; and as `push_folder` does.
    """
    folder = Path(folder)
    if (folder / CONFIG_FILE).is_file():
        repo_type = "model"
    elif (folder / CATALOG_FILE).is_file():
        repo_type = "dataset"
    else:
        raise ValueError(f"{folder} holds neither a checkpoint ({CONFIG_FILE}) nor a dataset or catalog ({CATALOG_FILE}).")
    check_name(repo_id)
    catalog = Catalog.from_pretrained(folder)  # raises for a broken one
    if (folder / DATASET_FACTS).is_file():
        check_folder(folder)
    if repo_type == "model":
        recorded(folder)  # raises for figures of other weights
    if (folder / CARD).is_file():
        card = card_text(folder / CARD)
    else:
        title = repo_id.split("/")[-1]
        without = repo_type == "model" and not GRLMConfig.load(folder / CONFIG_FILE).language_model
        made = counting_card if without else model_card
        card = catalog_card(catalog, repo_id) if repo_type == "dataset" else made(folder, title=title)
    licensed = license_card(card, license, license_name, license_link, folder=folder, dry_run=dry_run)
    url = None
    if not dry_run:
        url = push_folder(folder, repo_id, repo_type=repo_type, private=private, token=token, card=licensed.text)
    card = placed(licensed.text, repo_id)
    sizes = {p.relative_to(folder).as_posix(): p.stat().st_size for p in visible_files(folder)} | {CARD: len(card.encode())}
    return Published(repo_type, repo_id, url, dict(sorted(sizes.items())), licensed.license, card)
