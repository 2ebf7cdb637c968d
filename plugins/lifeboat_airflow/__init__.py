"""Lifeboat in Airflow's words: hooks build the core's objects from connections, operators run them as tasks."""
