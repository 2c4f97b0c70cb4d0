"""The trie of all identifiers, as arrays of token ids. It knows no catalog and no tokenizer."""
