"""Experiments: a declarative file each, its grid of runs, its table and its figure."""
