"""Importers: from sources to a data set on disk (Arrow), with noise and a mix of points on the way.

Start at ``import_dataset`` for a source of a known kind, which ``rhoselect.sources`` reads, at
``write_dataset`` for arrays, and at ``spool`` for a data set to iterate over. Reading a data set is
``rhoselect.data``; scorers and trainers need that alone and never import this package.
"""

from rhoselect.importers.kinds import KINDS, check_options, import_dataset
from rhoselect.importers.spooling import spool
from rhoselect.importers.writer import write_dataset

__all__ = ["KINDS", "check_options", "import_dataset", "spool", "write_dataset"]
