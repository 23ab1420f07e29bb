"""A loop of the user's own selects what ``rhoctl train`` selects, served or in one process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loops import hashes, prepared, service
from support import made

METHODS = {
    "lag 0": [],
    "lag 1": ["selection.lag=1"],
    "bn of the chunk": ["model.factory=rhoselect.models:small_cnn", "selection.bn=batch"],
    "state": ["selection.function=reducr"],
    "weights of losses": ["selection.function=gradient_norm_is"],
    "no weights needed": ["selection.function=uniform"],
    "views": ["augment.crop_padding=2", "augment.flip=true"],
    "bf16": ["scorer.precision=bf16"],
}


def trained(config: Path, folder: Path, sets: list[str]) -> tuple[str, str]:
    flags = [word for item in sets for word in ("--set", item)]
    made("train", config, "--run-dir", folder, *flags)
    summary = json.loads((folder / "summary.json").read_text())
    return summary["selected_sha256"], summary["weights_sha256"]


@pytest.mark.parametrize("sets", METHODS.values(), ids=METHODS)
def test_served_and_local_loops_are_the_trainer_s(
    tiny_config: Path, dataset_dir: Path, tmp_path: Path, sets: list[str]
) -> None:
    expected = trained(tiny_config, tmp_path / "trained", sets)
    run = prepared(tiny_config, sets)
    tree = run.config.model_dump()
    assert hashes(run, local=True, config=tree) == expected
    with service(run, tmp_path / "served") as address:
        assert hashes(run, address=address) == expected
        assert hashes(run, address=address, data=dataset_dir) == expected, "its own copy of points"
