"""Experiments: many runs as one grid, described by a file, with a table and a figure.

``spec`` is the file, ``grid`` its runs, ``recipes`` makes data and irreducible losses, ``runner``
runs and resumes, ``outcomes`` reads runs, ``table``, ``figure`` and ``document`` show them.
"""
