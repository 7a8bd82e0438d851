"""Starts, shows and stops everything that the lifecycle needs on one machine."""
