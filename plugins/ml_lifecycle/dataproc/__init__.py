"""Clusters and jobs on Yandex Data Processing: none leaks, none is made twice, none succeeds that failed."""
