"""Runs: in one process, or on a Ray cluster, with a queue server between trainer and scorers."""
