"""`GRLMForRecommendation`: a language model, its tokenizer and its catalog, as one checkpoint."""
