"""Recommenders without a language model: baselines of the evaluation, and priors of the search."""
