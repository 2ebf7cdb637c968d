"""Telling people: what happened, in words, through every channel that platform.yaml names."""
