"""Verbs for the demo page of a checkpoint: space and space push."""

from __future__ import annotations

from cyclopts import App

from grlm_hf.cli.app import DryRun, License, LicenseLink, LicenseName, Public, app, quiet

space = App(
    name="space",
    help="Open a demo page of a checkpoint, or publish it as a Space.\n\nExample: `grlm space grlm-quickstart/checkpoint`",
)
app.command(space)


@space.default
def run(checkpoint: str, *, compare: str = "", host: str = "127.0.0.1", port: int | None = None) -> None:
    """Open a demo page of a checkpoint: build a history, see and explain recommendations, watch the beam search, steer, add an item.

    Example: `grlm space grlm-quickstart/checkpoint` · `grlm space my-org/model --compare my-org/other`

    Parameters
    ----------
    checkpoint
        Folder or Hub id.
    compare
        Another checkpoint, shown beside it.
    host
        Address to listen on; 0.0.0.0 for all.
    port
        By default the first free one from 7860.
    """
    from grlm_hf.space.app import launch

    quiet()
    launch(checkpoint, compare, host=host, port=port)


@space.command
def push(
    checkpoint: str,
    repo_id: str,
    *,
    compare: str = "",
    license: License = None,
    license_name: LicenseName = "",
    license_link: LicenseLink = "",
    public: Public = False,
    dry_run: DryRun = False,
    requires: str = "",
) -> None:
    """Publish the page as a Space on the Hub, in one commit.

    Example: `grlm space push grlm-quickstart/checkpoint my-org/my-space --license apache-2.0 --dry-run`

    Parameters
    ----------
    checkpoint
        A folder, which is copied into the Space; or a Hub id, which the Space loads (a private one with its secret HF_TOKEN).
    repo_id
        ORG/NAME; created if it does not exist.
    compare
        Another checkpoint, shown beside it.
    requires
        Requirement in requirements.txt instead of this version of grlm-hf[space], such as a git URL.
    """
    from grlm_hf.space.push import push_space

    found = push_space(
        checkpoint, repo_id, compare=compare, license=license, license_name=license_name, license_link=license_link, private=not public,
        dry_run=dry_run, requires=requires,
    )  # fmt: skip
    print(found.url or found.listing())
