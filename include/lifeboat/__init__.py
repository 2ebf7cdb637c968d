"""Backup, proof of recovery and disaster recovery: the product, free of Airflow."""

__version__ = "0.1.0"
