"""What goes over the wire, and its limits."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from grlm_hf.decoding.rules import Shared

MAX_K = 500
MAX_BEAMS = 500
MAX_HISTORIES = 256
MAX_HISTORY = 1_000
MAX_IDS = 10_000
MAX_ITEMS = 1_000
MAX_PAGE = 1_000
MAX_ID = 256
MAX_TEXT = 10_000
MAX_TERM = 64
MAX_TERMS = 16

ItemId = Annotated[str, Field(min_length=1, max_length=MAX_ID)]
History = Annotated[list[ItemId], Field(min_length=1, max_length=MAX_HISTORY)]
Term = Annotated[str, Field(min_length=1, max_length=MAX_TERM)]
Text = Annotated[str, Field(max_length=MAX_TEXT)]


class _Asked(BaseModel):
    """JSON types as they are: no text for a number, nothing that is not known, no NaN."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class RecommendRequest(_Asked):
    history: History | None = Field(None, description="Item ids of one user, oldest first.", examples=[["B0001", "B0042"]])
    histories: Annotated[list[History], Field(min_length=1, max_length=MAX_HISTORIES)] | None = Field(
        None, description="Those of several users, instead of `history`.", examples=[None]
    )
    k: int = Field(10, ge=1, le=MAX_K, description="Items wanted.")
    exclude_seen: bool = Field(False, description="Leave out the items of the history.")
    allow: Annotated[list[ItemId], Field(max_length=MAX_IDS)] | None = Field(None, description="Only these.")
    exclude: Annotated[list[ItemId], Field(max_length=MAX_IDS)] = Field([], description="Never these.")
    banned_terms: Annotated[list[Term], Field(max_length=MAX_ITEMS)] = Field([], description="No item whose Term ID has one of these.")
    domain: ItemId | None = Field(None, description="Only items of this domain.")
    prior: Literal["own"] | None = Field(None, description="`own`: heed the priors that the checkpoint carries.")
    prior_weight: float = Field(1.0, ge=0, le=100)
    shared: Shared = Field("full", description="What items that share a Term ID get of its probability.")
    length_penalty: float = Field(0.0, ge=0, le=10)
    num_beams: int | None = Field(None, ge=1, le=MAX_BEAMS, description="Width of the search; by default the larger of 20 and k.")
    edge_wise: bool = Field(False, description="Fewer forward passes, slightly other beams.")
    exact: bool = Field(False, description="Find the true best k, and certify them.")
    deadline_ms: float | None = Field(
        None, gt=0, le=600_000,
        description="Time for waiting and searching together. When it is over, the answer is the best that an exact search has found, "
        "and no items where the search is not exact, or had not begun.",
    )  # fmt: skip

    @model_validator(mode="after")
    def _one_of_both(self) -> RecommendRequest:
        if (self.history is None) == (self.histories is None):
            raise ValueError("give either history (one user) or histories (several)")
        return self

    def options(self) -> dict[str, Any]:
        """For `GRLMForRecommendation.recommend`."""
        return self.model_dump(exclude={"history", "histories", "deadline_ms"})


class Recommended(BaseModel):
    item_id: str
    title: str
    term_id: list[str]
    score: float = Field(description="What items are ranked by.")
    log_prob: float = Field(description="Natural-log probability of the Term ID after the history.")


class Result(BaseModel):
    items: list[Recommended] = Field(description="Best first.")
    certified: bool = Field(description="No other item ranks above any of them (exact searches that had time enough).")
    gap: float | None = Field(description="Nothing left out scores higher than the last item by more than this; null where unknown.")


class RecommendResponse(BaseModel):
    version: int = Field(description="Of the catalog that every result was computed on.")
    late: bool = Field(description="The deadline came before the search was complete.")
    results: list[Result] = Field(description="One a history.")


class ItemFields(_Asked):
    item_id: ItemId
    title: Annotated[str, Field(min_length=1, max_length=1_000)]
    brand: Annotated[str, Field(max_length=1_000)] = ""
    categories: Annotated[list[Annotated[str, Field(max_length=1_000)]], Field(max_length=64)] = []
    description: Text = ""
    price: float | None = Field(None, ge=0, le=1e12)
    domain: Annotated[str, Field(max_length=MAX_ID)] = ""


class AddRequest(_Asked):
    items: Annotated[list[ItemFields], Field(min_length=1, max_length=MAX_ITEMS)]
    term_ids: list[Annotated[list[Term], Field(min_length=1, max_length=MAX_TERMS)]] | None = Field(
        None, description="One an item; by default they are extracted from the items' texts."
    )

    @model_validator(mode="after")
    def _one_an_item(self) -> AddRequest:
        if self.term_ids is not None and len(self.term_ids) != len(self.items):
            raise ValueError(f"found {len(self.items)} items and {len(self.term_ids)} term_ids; expected one an item")
        return self


class RemoveRequest(_Asked):
    item_ids: Annotated[list[ItemId], Field(min_length=1, max_length=MAX_IDS)]


class CatalogItem(BaseModel):
    item_id: str
    title: str
    brand: str
    categories: list[str]
    description: str
    price: float | None
    domain: str
    term_id: list[str]


class ItemsResponse(BaseModel):
    version: int
    total: int
    items: list[CatalogItem]


class ItemResponse(BaseModel):
    version: int
    item: CatalogItem


class CatalogResponse(BaseModel):
    version: int = Field(description="Rises with every change; a number never names two catalogs.")
    sha256: str = Field(description="Of the catalog's parquet file.")
    items: int
    term_ids: int = Field(description="Distinct ones.")
    shared: int = Field(description="Term IDs that several items carry.")
    domains: list[str]
    rollback_to: list[int] = Field(description="Versions before it that are kept, oldest first; a rollback takes the last.")


class AddResponse(CatalogResponse):
    added: dict[str, list[str]] = Field(description="The Term ID of each new item.")


class Health(BaseModel):
    live: bool
    ready: bool
    version: int


class Problem(BaseModel):
    detail: str
