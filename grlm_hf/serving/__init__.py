"""A recommender over HTTP: what `grlm serve` starts. `serve` runs it, `make_app` makes the ASGI application of a `Service`."""

try:
    import fastapi  # noqa: F401
    import prometheus_client  # noqa: F401
    import uvicorn  # noqa: F401
except ImportError as error:
    raise ImportError(f'grlm serve needs {error.name}; pip install "grlm-hf[serve]"') from error

from grlm_hf.serving.app import make_app
from grlm_hf.serving.options import ServeOptions
from grlm_hf.serving.run import serve
from grlm_hf.serving.service import Service

__all__ = ["ServeOptions", "Service", "make_app", "serve"]
