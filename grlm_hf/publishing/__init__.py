"""Dataset repositories and cards: what is written before anything is pushed (`grlm_hf.hub`)."""
