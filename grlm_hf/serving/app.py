"""The routes."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

import grlm_hf
from grlm_hf.data.catalog import Catalog
from grlm_hf.data.items import Item
from grlm_hf.modeling.results import Recommendations
from grlm_hf.serving import schemas
from grlm_hf.serving.batcher import Job, Refused
from grlm_hf.serving.door import Door
from grlm_hf.serving.service import Service
from grlm_hf.serving.state import Version

_SAID = {
    400: "Not JSON",
    401: "The API key is missing or wrong",
    404: "No such item",
    408: "The body did not arrive in time",
    409: "Not possible as things stand",
    413: "The body is too large",
    422: "Not in order; `detail` says what",
    429: "Too much waits already; try again after `Retry-After` seconds",
    503: "The service is stopping",
    507: "The disk is full; nothing has changed",
}


def _problems(*status: int) -> dict[int | str, dict[str, Any]]:
    return {s: {"model": schemas.Problem, "description": _SAID[s]} for s in (400, 401, 408, 413, 422, 429, 503, *status)}


def make_app(service: Service) -> FastAPI:
    """The ASGI application of a service. It does not stop the service."""
    app = FastAPI(
        title="GRLM recommender",
        version=grlm_hf.__version__,
        description="Recommends items by writing their Term IDs, held to the catalog by a trie.",
        redoc_url=None,
        dependencies=[Depends(HTTPBearer(auto_error=False))] if service.options.api_key else [],
    )
    app.add_middleware(Door, service=service)  # type: ignore[arg-type]

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        if error.reason:
            service.metrics.rejected.labels(error.reason).inc()
        return _problem(error.status, error.detail)

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> Response:
        return _problem(error.status_code, str(error.detail), error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        # Without what was sent: it may be large, and no JSON.
        said = []
        for e in error.errors()[:5]:
            if e["type"] == "json_invalid":
                said.append(f"body: not JSON, at character {e['loc'][-1]}")
            else:
                said.append(f"{'.'.join(str(part)[:60] for part in e['loc'][1:]) or e['loc'][0]}: {e['msg']}")
        return _problem(422, "; ".join(said))

    @app.post("/recommend", response_model=schemas.RecommendResponse, responses=_problems(), tags=["recommend"])
    async def recommend(asked: schemas.RecommendRequest, request: Request) -> Response:
        """The likeliest next items after one history, or after several."""
        histories = asked.histories if asked.history is None else [asked.history]
        assert histories is not None
        facts = request.scope["grlm"]
        facts["histories"] = len(histories)
        if service.options.log_histories:
            facts["items"] = histories
        deadline = None if asked.deadline_ms is None else time.monotonic() + asked.deadline_ms / 1000
        job = Job(histories, asked.options(), deadline)
        service.batcher.submit(job)
        answers = await _answered(service, job, request)
        late = answers is None
        if answers is None:
            service.metrics.rejected.labels("deadline").inc()
            version, answers = service.current.number, [Recommendations() for _ in histories]
        else:
            version = service.version_of(answers)
            late = asked.exact and deadline is not None and not all(answer.certified for answer in answers)
        facts["version"] = version
        return JSONResponse({"version": version, "late": late, "results": [_result(answer) for answer in answers]})

    @app.get("/items", response_model=schemas.ItemsResponse, responses=_problems(404), tags=["items"])
    async def list_items(
        offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
        limit: Annotated[int, Query(ge=1, le=schemas.MAX_PAGE)] = 100,
        domain: Annotated[str | None, Query(max_length=schemas.MAX_ID)] = None,
    ) -> Response:
        """The catalog, page by page, in its own order."""
        current = service.current
        try:
            positions = range(len(current.catalog)) if domain is None else current.catalog.positions_in(domain)
        except ValueError as error:
            raise Refused(404, str(error)) from None
        page = [_item(current.catalog, p) for p in positions[offset : offset + limit]]
        return JSONResponse({"version": current.number, "total": len(positions), "items": page})

    @app.get("/items/{item_id:path}", response_model=schemas.ItemResponse, responses=_problems(404), tags=["items"])
    async def get_item(item_id: str) -> Response:
        """One item."""
        current = service.current
        if item_id not in current.catalog:
            raise Refused(404, f"Item {item_id[:300]!r} is not in the catalog of {len(current.catalog)} items.")
        return JSONResponse({"version": current.number, "item": _item(current.catalog, current.catalog.position(item_id))})

    @app.post("/items", response_model=schemas.AddResponse, responses=_problems(409, 507), tags=["items"])
    async def add_items(asked: schemas.AddRequest) -> Response:
        """Adds items, all or none. They can be recommended, and stand in histories, once this answers."""
        items = [Item(**{**item.model_dump(), "categories": tuple(item.categories)}) for item in asked.items]
        version, tids = await asyncio.to_thread(service.add, items, asked.term_ids)
        added = {item.item_id: list(tid) for item, tid in zip(items, tids, strict=True)}
        return JSONResponse({**_catalog(service, version), "added": added})

    @app.delete("/items", response_model=schemas.CatalogResponse, responses=_problems(404, 409, 507), tags=["items"])
    async def remove_items(asked: schemas.RemoveRequest) -> Response:
        """Removes items, all or none."""
        return JSONResponse(_catalog(service, await asyncio.to_thread(service.remove, asked.item_ids)))

    @app.get("/catalog", response_model=schemas.CatalogResponse, responses=_problems(), tags=["catalog"])
    async def get_catalog() -> Response:
        """What is served."""
        return JSONResponse(_catalog(service, service.current))

    @app.post(
        "/catalog/reload",
        response_model=schemas.CatalogResponse,
        responses=_problems(409, 507),
        tags=["catalog"],
        openapi_extra={
            "requestBody": {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}},
        },
    )
    async def reload(
        request: Request,
        x_content_sha256: Annotated[str | None, Header(pattern="^[0-9a-fA-F]{64}$", description="Of the body, in hex.")] = None,
    ) -> Response:
        """Takes another catalog: the body (a `catalog.parquet`, with its SHA-256), or without a body that of the folder named by
        `--catalog`. It is checked as a whole before it is served; on any fault the one before stays."""
        try:
            with service.upload_file() as file:
                with open(file, "wb") as out:
                    async for chunk in request.stream():
                        out.write(chunk)
                if not file.stat().st_size:
                    version = await asyncio.to_thread(service.reload)
                elif x_content_sha256 is None:
                    raise Refused(422, "An uploaded catalog needs the header X-Content-SHA256: the checksum of the body, in hex.")
                else:
                    version = await asyncio.to_thread(service.reload, file, x_content_sha256)
        except OSError as error:
            logging.getLogger("grlm.serve").error("upload failed", extra={"facts": {"problem": error.strerror}})
            raise Refused(507, "The upload could not be written to disk; nothing has changed.", "disk") from error
        return JSONResponse(_catalog(service, version))

    @app.post("/catalog/rollback", response_model=schemas.CatalogResponse, responses=_problems(409, 507), tags=["catalog"])
    async def rollback() -> Response:
        """Serves the catalog of the version before again, under a number of its own."""
        return JSONResponse(_catalog(service, await asyncio.to_thread(service.rollback)))

    @app.get("/health/live", response_model=schemas.Health, tags=["health"])
    async def live() -> Response:
        """200 while the process answers at all."""
        return _health(service, 200)

    @app.get("/health", response_model=schemas.Health, responses={503: {"model": schemas.Health}}, tags=["health"])
    @app.get("/health/ready", response_model=schemas.Health, responses={503: {"model": schemas.Health}}, tags=["health"])
    async def ready() -> Response:
        """200 while it takes requests, else 503."""
        return _health(service, 200 if service.ready else 503)

    @app.get("/metrics", responses={200: {"content": {"text/plain": {}}}, 401: {"model": schemas.Problem}}, tags=["health"])
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return app


async def _answered(service: Service, job: Job, request: Request) -> list[Recommendations] | None:
    """Waits for a job for as long as the client is there, and at most until its deadline: ``None`` where that came first. An exact search
    that has begun is waited for: it stops by itself, with the best found so far."""
    answer = asyncio.wrap_future(job.answer)
    answer.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may be left to look at it
    gone = asyncio.ensure_future(request.receive())
    either: set[asyncio.Future[Any]] = {answer, gone}
    try:
        left = None if job.deadline is None else max(0.0, job.deadline - time.monotonic())
        await asyncio.wait(either, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done() and not gone.done() and job.options["exact"] and not service.batcher.drop(job):
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if answer.done() and not answer.cancelled():
            return answer.result()
        if gone.done():
            request.scope["grlm"]["status"] = 499  # in the log; nobody reads the answer
            raise Refused(400, "The client has gone.", "gone")
        return None
    finally:
        service.batcher.drop(job)
        gone.cancel()


def _result(answer: Recommendations) -> dict[str, Any]:
    items = [{"item_id": r.item_id, "title": r.title, "term_id": list(r.term_id), "score": r.score, "log_prob": r.log_prob} for r in answer]
    return {"items": items, "certified": answer.certified, "gap": answer.gap if math.isfinite(answer.gap) else None}


def _item(catalog: Catalog, position: int) -> dict[str, Any]:
    item = catalog.items[position]
    values = {name: getattr(item, name) for name in Item.__slots__}
    return {**values, "categories": list(item.categories), "term_id": list(catalog.term_ids[position])}


def _catalog(service: Service, version: Version) -> dict[str, Any]:
    catalog = version.catalog
    return {
        "version": version.number,
        "sha256": version.sha256,
        "items": len(catalog),
        "term_ids": len(catalog.identifiers),
        "shared": len(catalog.collisions),
        "domains": list(catalog.domains),
        "rollback_to": [n for n in service.state.kept if n < version.number],
    }


def _health(service: Service, status: int) -> Response:
    return JSONResponse({"live": True, "ready": service.ready, "version": service.current.number}, status)


def _problem(status: int, detail: str, headers: Any = None) -> Response:
    more = {"Retry-After": "1"} if status in (429, 503) else {}
    # ASCII: a text may quote half a character, which UTF-8 cannot write
    return Response(json.dumps({"detail": detail}), status, {**(headers or {}), **more}, "application/json")
