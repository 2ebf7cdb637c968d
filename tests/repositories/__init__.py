"""Repositories, held to their contract on real servers."""
