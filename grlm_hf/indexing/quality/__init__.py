"""Quality of a set of Term IDs: `measure` computes it, `report` shows it as a table and plots."""
