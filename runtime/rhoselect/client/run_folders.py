"""The run folder of a loop that selects in its own process."""

from __future__ import annotations

from pathlib import Path
from types import EllipsisType

from rhoselect.config import resolve
from rhoselect.errors import RunFolderError
from rhoselect.inputs import RunInputs, SelectionInputs
from rhoselect.trainer.resuming import check_kind
from rhoselect.trainer.runfolder import RunFolder, check_inputs, default_run_dir, stored_config


def open_folder(
    given: Path | str | EllipsisType | None, inputs: SelectionInputs, step: int
) -> RunFolder | None:
    """A new folder, or an existing one for a loop that resumes with ``step``; None for None,
    and after the last step, when there is nothing to record.

    ``...`` stands for a new folder below runs/. Raises RunFolderError.
    """
    if given is None or step == inputs.config.trainer.steps:
        return None
    path = default_run_dir("loop") if given is ... else Path(str(given)).expanduser()
    sha256 = inputs.sha256 if isinstance(inputs, RunInputs) else ""
    if not path.exists():
        try:
            return RunFolder.create(path, inputs.config, sha256, "local")
        except RunFolderError as error:
            raise RunFolderError(f"{error}; with run_dir=None the loop leaves no folder") from None
    if not step or not (path / "config.toml").is_file():
        raise RunFolderError(
            f"run_dir {path}: exists, allowed a new folder, or that of a loop which resumes with"
            " step=…; choose another"
        )
    check_kind(path, "local")
    changed = resolve(stored_config(path)).changed_keys(inputs.config)
    if changed:
        raise RunFolderError(
            f"run_dir {path}: got another configuration ({', '.join(changed)}), allowed that of its"
            " config.toml; choose a new folder"
        )
    check_inputs(path, sha256)
    return RunFolder.resume(path)
