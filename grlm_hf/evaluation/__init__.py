"""How good are the recommendations: metrics, baselines under the same protocol, and the report."""
