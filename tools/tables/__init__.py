"""One module for each generated table."""
