"""`make matrix`: which model types of transformers the scripts train, by trying."""
