"""Programs for contributors; not part of the distribution."""
