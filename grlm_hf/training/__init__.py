"""From a mixture to a checkpoint, through TRL."""
