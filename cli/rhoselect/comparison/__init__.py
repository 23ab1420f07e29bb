"""Selection compared with uniform batches and cheap rivals at the same budget.

Start at ``protocol.compare``. The rules are those of docs/comparing.md.
"""
