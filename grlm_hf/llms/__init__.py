"""Language models that write text for us."""
