"""The subcommands of ``rhoctl``, a module each."""

MOST_WORKERS = 10_000  # `queue.base.HELPERS`, which takes seconds to import
