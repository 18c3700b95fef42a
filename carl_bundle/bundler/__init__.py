"""Cuts a script from `carl_runtime_min`: closure, order, CONFIG, render, check."""
