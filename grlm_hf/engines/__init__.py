"""Language models behind one protocol: prefixes in, log-probabilities of the legal next symbols out."""
