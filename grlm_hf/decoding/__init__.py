"""Requests, searches over the trie, the logits processor, and grounding of free text."""
