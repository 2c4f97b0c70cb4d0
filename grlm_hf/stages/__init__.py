"""The stages ``neighbors → terms → quality → dataset → priors → train → hybrid → evaluate``: each is a function that reads files and writes
files (`identify`, `dataset`, `priors`, `model`). `chain` runs the stages with changed inputs or settings."""

from grlm_hf.stages.chain import run
from grlm_hf.stages.dataset import make_dataset
from grlm_hf.stages.identify import make_identifiers, make_neighbors, make_terms
from grlm_hf.stages.importing import import_tables
from grlm_hf.stages.model import make_checkpoint, make_report
from grlm_hf.stages.priors import make_hybrid, make_priors
from grlm_hf.stages.quality import make_quality
from grlm_hf.stages.reading import make_split
from grlm_hf.stages.scale import run_sizes
from grlm_hf.stages.seeds import run_seeds

__all__ = [
    "import_tables", "make_checkpoint", "make_dataset", "make_hybrid", "make_identifiers", "make_neighbors", "make_priors",
    "make_quality", "make_report", "make_split", "make_terms", "run", "run_seeds", "run_sizes",
]  # fmt: skip
