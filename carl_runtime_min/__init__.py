"""What trains: the code that is cut, verbatim, into every generated script."""
