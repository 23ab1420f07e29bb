"""A run on Ray: start at ``cluster``."""
