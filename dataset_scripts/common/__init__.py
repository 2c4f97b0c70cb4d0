"""What the programs of this folder share: reading, cleaning, filtering, writing."""
