"""The lifecycle, driven through Airflow's API as a person would drive it, and narrated."""
