"""What a set of Term IDs is worth: `measure` it, `report` it as table and plots."""
