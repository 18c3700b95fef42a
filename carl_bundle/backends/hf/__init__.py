"""Hugging Face Jobs: containers by the minute, and a private bucket for their files."""
