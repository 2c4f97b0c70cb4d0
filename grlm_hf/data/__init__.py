"""Items, catalogs, interactions and dataset repositories."""
