"""Methods to beat, under the same protocol."""
