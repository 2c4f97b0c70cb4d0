"""Item identifiers made of plain words: what a Term ID is, and how an item gets one."""
