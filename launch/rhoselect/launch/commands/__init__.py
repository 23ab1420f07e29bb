"""The subcommands of ``rhoctl``, a module each."""
