"""How items get identifiers: neighbours, extraction from text, an LLM, collisions, quality."""
