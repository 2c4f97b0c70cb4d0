# The search of grlm-hf over the catalog of this repository.
from grlm_hf.generation import generate  # noqa: F401
