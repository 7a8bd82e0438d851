"""Prometheus over its HTTP API: instant and range queries."""
