"""The command line: `python -m lifeboat`. It needs no Airflow, and reads the same settings and connections."""
