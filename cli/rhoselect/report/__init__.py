"""Finished runs: compared in a table, in a PNG and on an HTML page; their points exported.

``runs`` reads run folders, ``history`` and ``coverage`` say what became of the points,
``comparison`` compares runs, ``plots`` draws, ``page`` writes HTML, ``export`` writes every point.
``tables``, ``drawing`` and ``origin`` also serve the grids and the benchmarks.
"""
