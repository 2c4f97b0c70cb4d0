"""Catalog × histories → prompts and completions. `prompts` owns all text; a module a task; `config` and `mixture` make a dataset."""
