"""Readers of sources: each gives what it found as arrays of splits, ``source.Found``.

``rhoselect.importers`` knows them by kind and writes what they found.
"""
