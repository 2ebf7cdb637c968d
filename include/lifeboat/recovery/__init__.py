"""Disaster recovery: assessing what is left, bringing a whole platform back, and writing down how it went."""
