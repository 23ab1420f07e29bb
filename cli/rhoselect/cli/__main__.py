"""``python -m rhoselect.cli``: the command ``rhoctl`` where it is not on the PATH."""

from rhoselect.cli.entry import main

if __name__ == "__main__":
    main()
