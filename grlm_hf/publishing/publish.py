"""Publishes a folder on the Hub: a checkpoint, a dataset or a catalog, with its card and a licence."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from grlm_hf.data.catalog import Catalog, catalog_card
from grlm_hf.layout import CARD, CATALOG_FILE, DATASET_FACTS
from grlm_hf.publishing.folder import check_folder
from grlm_hf.publishing.licenses import licensed
from grlm_hf.publishing.model_card import model_card
from grlm_hf.publishing.record import recorded

if TYPE_CHECKING:
    pass
from grlm_hf.hub import card_text, check_name, placed, push_folder, visible_files


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
    check_name(repo_id)
    catalog = Catalog.from_pretrained(folder)  # a broken one is not published
    if (folder / DATASET_FACTS).is_file():
        check_folder(folder)
    if repo_type == "model":
        recorded(folder)  # figures of other weights are not published
    if (folder / CARD).is_file():
        card = card_text(folder / CARD)
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
        card = placed(card, repo_id)
        sizes = {p.relative_to(folder).as_posix(): p.stat().st_size for p in visible_files(folder)} | {CARD: len(card.encode())}
        listed = (f"  {name}  {size:,} bytes" for name, size in sorted(sizes.items()))
        return "\n".join([f"{repo_type} {repo_id}:", *listed, f"licence: {said}", "", card])
    return push_folder(folder, repo_id, repo_type=repo_type, private=private, token=token, card=card)
