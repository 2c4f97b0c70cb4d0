"""The routes."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from grlm_hf.data.catalog import Catalog
from grlm_hf.data.items import item_row
from grlm_hf.decoding.rules import MIN_BEAMS
from grlm_hf.files import did_you_mean
from grlm_hf.modeling.results import Recommendations
from grlm_hf.serving import schemas
from grlm_hf.serving.batcher import Job, Refused
from grlm_hf.serving.door import LARGE, Door, check_json, problem
from grlm_hf.serving.options import MB
from grlm_hf.serving.service import Service
from grlm_hf.serving.state import Version
from grlm_hf.version import __version__

_DESCRIPTIONS = {
    400: "Not JSON",
    401: "The API key is missing or wrong",
    404: "No such item",
    408: "The body did not arrive in time",
    409: "Not possible in the present state",
    413: "The body is too large",
    422: "Invalid; `detail` says what",
    429: "Too many requests are waiting; try again after `Retry-After` seconds",
    503: "The service is stopping",
    507: "The disk is full; nothing has changed",
}


def _problems(*status: int) -> dict[int | str, dict[str, Any]]:
    return {s: {"model": schemas.Problem, "description": _DESCRIPTIONS[s]} for s in (400, 401, 408, 413, 422, 429, 503, *status)}


def make_app(service: Service) -> FastAPI:
    """The ASGI application of a service. It does not stop the service."""
    app = FastAPI(
        title="GRLM recommender",
        version=__version__,
        description="Recommends items by writing their Term IDs, held to the catalog by a trie.",
        redoc_url=None,
        dependencies=[Depends(HTTPBearer(auto_error=False))] if service.options.api_key else [],
        exception_handlers={Refused: _refused, HTTPException: _http_error, RequestValidationError: _invalid},
    )
    app.state.service = service
    app.add_middleware(Door, service=service)  # type: ignore[arg-type]
    app.include_router(routes)
    return app


async def _service(request: Request) -> Service:
    return request.app.state.service


class _Request(Request):
    """A request whose JSON is bounded before it is unpacked."""

    async def body(self) -> bytes:
        if not hasattr(self, "_body"):
            body = bytearray()  # and no list of chunks: each takes fifty bytes, and may have one
            async for chunk in self.stream():
                body += chunk
            self._body = bytes(body)
        return self._body

    async def json(self) -> Any:
        body = await self.body()
        self.scope[LARGE] = len(body) > MB // 8
        check_json(body, self.app.state.service.options.max_body_mb * MB)
        return await super().json()


class _Route(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def bounded(request: Request) -> Response:
            return await handle(_Request(request.scope, request.receive))

        return bounded


Served = Annotated[Service, Depends(_service)]
routes = APIRouter(route_class=_Route)


@routes.post("/recommend", response_model=schemas.RecommendResponse, responses=_problems(), tags=["recommend"])
async def recommend(body: schemas.RecommendRequest, request: Request, service: Served) -> Response:
    """The likeliest next items after one history, or after several."""
    histories = body.histories if body.history is None else [body.history]
    assert histories is not None
    facts = request.scope["grlm"]
    facts["histories"] = len(histories)
    if service.options.log_histories:
        facts["items"] = histories
    seconds = min(service.options.max_seconds, math.inf if body.deadline_ms is None else body.deadline_ms / 1000)
    try:
        k = body.k if "k" in body.model_fields_set else min(body.k, len(service.current.catalog))
        job = Job(histories, k, *body.options(), time.monotonic() + seconds)
    except ValueError as error:
        raise Refused(422, str(error)) from error
    _check_work(job, service.options.max_beams)
    service.batcher.submit(job)
    answers = await _answered(service, job, request)
    late = answers is None
    if answers is None:
        service.metrics.rejected.labels("deadline").inc()
        version, answers = service.current.number, [Recommendations() for _ in histories]
    else:
        version = service.version_of(answers)
        late = body.exact and not all(answer.certified for answer in answers if answer.answered_by == "model")
    facts["version"] = version
    return JSONResponse({"version": version, "late": late, "results": [_result(answer) for answer in answers]})


def _check_work(job: Job, most: int) -> None:
    """Raises `Refused` for a request that would keep the model from everybody else."""
    beams = job.search.num_beams or max(MIN_BEAMS, job.k)
    if (work := len(job.histories) * beams) > most:
        raise Refused(422, f"{len(job.histories)} histories with {beams} beams are {work:,} beams; this service allows {most:,} a request.")


@routes.get("/items", response_model=schemas.ItemsResponse, responses=_problems(404), tags=["items"])
async def list_items(
    service: Served,
    offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
    limit: Annotated[int, Query(ge=1, le=schemas.MAX_PAGE)] = 100,
    domain: Annotated[str | None, Query(max_length=schemas.MAX_ID)] = None,
) -> Response:
    """The catalog, page by page, in its own order."""
    current = service.current
    try:
        positions = range(len(current.catalog)) if domain is None else current.catalog.positions_in(domain)
    except ValueError as error:
        raise Refused(404, f"{error} {did_you_mean(domain or '', current.catalog.domains)}".rstrip()) from None
    page = [_item(current.catalog, p) for p in positions[offset : offset + limit]]
    return JSONResponse({"version": current.number, "total": len(positions), "items": page})


@routes.get("/items/{item_id:path}", response_model=schemas.ItemResponse, responses=_problems(404), tags=["items"])
async def get_item(item_id: str, service: Served) -> Response:
    """One item."""
    current = service.current
    if item_id not in current.catalog:
        raise Refused(404, current.catalog.unknown(item_id[: schemas.MAX_ID]))
    return JSONResponse({"version": current.number, "item": _item(current.catalog, current.catalog.position(item_id))})


@routes.post("/items", response_model=schemas.AddResponse, responses=_problems(409, 507), tags=["items"])
async def add_items(body: schemas.AddRequest, service: Served) -> Response:
    """Adds items, all or none. Recommendations and histories can contain them as soon as this answers."""
    items = [fields.item() for fields in body.items]
    version = await asyncio.to_thread(service.add, items, body.term_ids)
    added = {item.item_id: list(version.catalog.identifier(item.item_id)) for item in items}
    return JSONResponse({**_catalog(service, version), "added": added})


@routes.delete("/items", response_model=schemas.CatalogResponse, responses=_problems(404, 409, 507), tags=["items"])
async def remove_items(body: schemas.RemoveRequest, service: Served) -> Response:
    """Removes items, all or none."""
    return JSONResponse(_catalog(service, await asyncio.to_thread(service.remove, body.item_ids)))


@routes.get("/catalog", response_model=schemas.CatalogResponse, responses=_problems(), tags=["catalog"])
async def get_catalog(service: Served) -> Response:
    """The current version of the catalog."""
    return JSONResponse(_catalog(service, service.current))


@routes.post(
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
    service: Served,
    x_content_sha256: Annotated[str | None, Header(pattern="^[0-9a-fA-F]{64}$", description="Of the body, in hex.")] = None,
) -> Response:
    """Replaces the catalog by the body (a `catalog.parquet`, with its SHA-256), or without a body by that of the folder of `--catalog`.
    It is checked as a whole before it is served; on any fault the version before stays."""
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


@routes.post("/catalog/rollback", response_model=schemas.CatalogResponse, responses=_problems(409, 507), tags=["catalog"])
async def rollback(service: Served) -> Response:
    """Serves the catalog of the version before again, under a number of its own."""
    return JSONResponse(_catalog(service, await asyncio.to_thread(service.rollback)))


@routes.get("/", include_in_schema=False)
async def index(service: Served) -> Response:
    """What is here."""
    places = {"docs": "/docs", "recommend": "POST /recommend", "catalog": "/catalog", "items": "/items", "health": "/health"}
    config = service.grlm.config
    defaults = {"prior": "own" if config.own_prior else "none", "exclude_seen": config.exclude_seen}
    about = {"service": "GRLM recommender", "grlm_hf": __version__, "version": service.current.number, "defaults": defaults}
    return JSONResponse(about | places)


@routes.get("/health/live", response_model=schemas.Health, tags=["health"])
async def live(service: Served) -> Response:
    """200 while the process answers at all."""
    return _health(service, 200)


@routes.get("/health", response_model=schemas.Health, responses={503: {"model": schemas.Health}}, tags=["health"])
@routes.get("/health/ready", response_model=schemas.Health, responses={503: {"model": schemas.Health}}, tags=["health"])
async def ready(service: Served) -> Response:
    """200 while it accepts requests, else 503."""
    return _health(service, 200 if service.ready else 503)


@routes.get("/metrics", responses={200: {"content": {"text/plain": {}}}, 401: {"model": schemas.Problem}}, tags=["health"])
async def metrics(service: Served) -> Response:
    """For Prometheus."""
    return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)


async def _answered(service: Service, job: Job, request: Request) -> list[Recommendations] | None:
    """The answer to a job; ``None`` if its deadline comes first. It waits while the client is there. An exact search that has begun stops
    by itself at the deadline, with the best items found so far."""
    answer = asyncio.wrap_future(job.answer)
    answer.add_done_callback(lambda done: done.cancelled() or done.exception())  # or asyncio warns about an exception that nobody read
    gone = asyncio.ensure_future(request.receive())
    either: set[asyncio.Future[Any]] = {answer, gone}
    try:
        left = None if job.deadline is None else max(0.0, job.deadline - time.monotonic())
        await asyncio.wait(either, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done() and not gone.done() and job.search.exact and not service.batcher.drop(job):
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if answer.done() and not answer.cancelled():
            return answer.result()
        if gone.done():
            request.scope["grlm"]["status"] = 499  # for the log; nobody reads the answer
            raise Refused(400, "The client has gone.", "gone")
        return None
    finally:
        job.gone = True  # a search that has begun stops before its next forward
        service.batcher.drop(job)
        gone.cancel()


async def _refused(request: Request, error: Any) -> Response:
    if error.reason:
        request.app.state.service.metrics.rejected.labels(error.reason).inc()
    return problem(error.status, error.detail)


async def _http_error(_: Request, error: Any) -> Response:
    return problem(error.status_code, str(error.detail), error.headers)


async def _invalid(_: Request, error: Any) -> Response:
    """Names the fields, and does not repeat the body: it may be large, or no JSON."""
    details = []
    for e in error.errors()[:5]:
        if e["type"] == "json_invalid":
            details.append(f"body: not JSON, at character {e['loc'][-1]}")
        elif e["loc"] == ("body",) and isinstance(error.body, bytes):
            details.append("body: expected JSON under the header Content-Type: application/json")
        else:
            details.append(f"{'.'.join(str(part)[:60] for part in e['loc'][1:]) or e['loc'][0]}: {e['msg']}")
    return problem(422, "; ".join(details))


def _result(answer: Recommendations) -> dict[str, Any]:
    gap = answer.gap if math.isfinite(answer.gap) else None
    facts = {"answered_by": answer.answered_by, "skipped": list(answer.skipped)}
    return {"items": [item.to_dict() for item in answer], "certified": answer.certified, "gap": gap, **facts}


def _item(catalog: Catalog, position: int) -> dict[str, Any]:
    return {**item_row(catalog.items[position]), "term_id": list(catalog.item_identifiers[position])}


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
