"""Catalog × histories → prompts and completions. All prompt text is owned by `prompts`; `mixture` turns it into a dataset."""
