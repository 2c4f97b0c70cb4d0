"""Catalog and histories → prompts and completions. `prompts` owns all text, each task has a module, `config` lists the tasks."""
