"""Writing only identifiers that exist: the trie, the logits processor, our own beam search, and grounding of free text."""
