"""Quantisers: vectors of items → a `grlm_hf.identifiers.codebook.Codebook`, one module a quantiser."""
