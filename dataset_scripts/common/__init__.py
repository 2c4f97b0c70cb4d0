"""Shared by the programs of this folder: reading, cleaning, filtering, writing."""
