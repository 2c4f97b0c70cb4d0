"""Whatever the OpenAPI description allows, and whatever it does not, the service answers: never with a 5xx."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, seed, settings
from serving_toys import toy_grlm

from grlm_hf.serving import ServeOptions, Service, make_app

_service = Service(toy_grlm(), ServeOptions(max_wait_ms=0, allowed_hosts=("testserver",)))
schema = schemathesis.openapi.from_asgi("/openapi.json", make_app(_service))


@pytest.fixture(scope="module", autouse=True)
def stopped() -> object:
    yield
    _service.stop()


@seed(0)
@schema.parametrize()
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate], database=None)
def test_no_request_makes_it_fail(case: schemathesis.Case) -> None:
    response = case.call()
    assert response.status_code < 500, (response.status_code, response.text)
    if response.headers.get("content-type", [""])[0].startswith("application/json"):
        response.json()
