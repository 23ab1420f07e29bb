"""Initial weights from a file: the same tensors, strict names, and a changed file noticed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from rhoselect.config import load
from rhoselect.errors import ModelError
from rhoselect.inputs import open_inputs
from rhoselect.models.build import build_model
from rhoselect.models.weights import load_weights
from rhoselect.trainer.records import weights_sha256
from support import CLASSES, hashes, made, rhoctl

MLP = "rhoselect.models:mlp"
SHAPE = (1, 16, 16)


def model(classes: int = CLASSES, seed: int = 5, width: int = 32) -> nn.Module:
    return build_model(MLP, {"width": width}, SHAPE, classes, seed)


def test_a_run_begins_with_the_weights_of_its_file(tiny_config: Path, tmp_path: Path) -> None:
    pretrained = model().state_dict()
    save_file(pretrained, tmp_path / "w.safetensors")
    torch.save(pretrained, tmp_path / "w.pt")
    for name in ("w.safetensors", "w.pt"):
        inputs = open_inputs(load(tiny_config, [f"model.weights={tmp_path / name}"]))
        for key, tensor in inputs.new_model().state_dict().items():
            assert torch.equal(tensor, pretrained[key])


def test_a_run_leaves_its_final_weights(tiny_config: Path, tmp_path: Path) -> None:
    """Under the model's own names, BatchNorm's statistics too; the next run may begin with them."""
    args = ["model.factory=user_code:Dropped", "model.args={}"]
    short = [*args, "trainer.steps=2"]
    run = tmp_path / "run"
    made("train", tiny_config, "--run-dir", run, *(w for key in short for w in ("--set", key)))
    network = build_model("user_code:Dropped", {}, SHAPE, CLASSES, 5)
    network.load_state_dict(load_file(run / "model.safetensors"))
    means = [t for name, t in network.named_buffers() if name.endswith("running_mean")]
    assert means and all(mean.any() for mean in means)
    assert weights_sha256(network) == hashes(run)[1]
    again = open_inputs(load(tiny_config, [*args, f"model.weights={run / 'model.safetensors'}"]))
    assert weights_sha256(again.new_model()) == hashes(run)[1]


def test_a_last_layer_of_another_size_can_be_left_out(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    pretrained = model(classes=100, seed=5).state_dict()
    save_file(pretrained, path)
    fresh = {name: t.clone() for name, t in model(seed=6).state_dict().items()}
    target = model(seed=6)
    load_weights(target, path, head=False)
    for name, tensor in target.state_dict().items():
        source = fresh if name in ("5.weight", "5.bias") else pretrained
        assert torch.equal(tensor, source[name]), name


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (model(classes=7).state_dict(), r"5\.weight is \[7, 32\] in the file and \[4, 32\] in the"),
        ({"1.weight": torch.zeros(2)}, r"1\.bias is not in the file; .*\(and 3 more\); allowed"),
        ({**model().state_dict(), "x": torch.zeros(1)}, r"x is not in the model; allowed"),
    ],
)
def test_the_first_differences_are_named(
    tmp_path: Path, tensors: dict[str, torch.Tensor], message: str
) -> None:
    path = tmp_path / "w.safetensors"
    save_file(tensors, path)
    target = model(seed=6)
    with pytest.raises(ModelError, match=rf"^model\.weights {re.escape(str(path))}: .*{message}"):
        load_weights(target, path, head=True)
    assert torch.equal(target.state_dict()["1.weight"], model(seed=6).state_dict()["1.weight"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.safetensors", None, "no such file"),
        ("junk.safetensors", b"junk", "cannot be read"),
        ("junk.pt", b"junk", "cannot be read"),
        ("empty.pt", b"", "cannot be read"),
    ],
)
def test_files_that_cannot_be_read(
    tiny_config: Path, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    result = rhoctl(
        "train", tiny_config, "--run-dir", tmp_path / "r", "--set", f"model.weights={path}"
    )
    assert result.code == 2
    assert message in result.err
    assert result.err.count("\n") == 1


def test_nothing_pickled_but_tensors_is_loaded(tmp_path: Path) -> None:
    torch.save(model(), tmp_path / "whole.pt")
    torch.save({"step": 3}, tmp_path / "other.pt")
    with pytest.raises(ModelError, match=r"whole\.pt: cannot be read"):
        load_weights(model(), tmp_path / "whole.pt", head=True)
    with pytest.raises(ModelError, match=r"other\.pt: holds other things than tensors"):
        load_weights(model(), tmp_path / "other.pt", head=True)


def test_a_changed_file_is_noticed_on_resume(tiny_config: Path, tmp_path: Path) -> None:
    path, run = tmp_path / "w.safetensors", tmp_path / "run"
    save_file(model(seed=5).state_dict(), path)
    made("train", tiny_config, "--workers", "0", "--run-dir", run, "--set", f"model.weights={path}")
    (run / "summary.json").unlink()  # as if it had not finished
    save_file(model(seed=6).state_dict(), path)
    result = rhoctl("train", "--resume", "--workers", "0", "--run-dir", run)
    assert result.code == 2
    assert "first weights" in result.err
    save_file(model(seed=5).state_dict(), path)
    made("train", "--resume", "--workers", "0", "--run-dir", run)
