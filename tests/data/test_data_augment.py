"""Augmented views: a function of (seed, epoch, index) alone, alike when scored and trained on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from data_helpers import CPU, refused

from rhoselect.config import Config, load
from rhoselect.data import ArrowDataset, open_data, train_points
from rhoselect.data.augment import Augmentation
from rhoselect.errors import ConfigError
from rhoselect.importers import write_dataset
from rhoselect.inputs import open_inputs
from rhoselect.models.build import build_model
from rhoselect.trainer.records import selected_sha256, weights_sha256
from support import made, rhoctl

RANDOM = np.random.default_rng(0)
IMAGES = torch.from_numpy(RANDOM.integers(1, 256, (200, 3, 6, 9), np.uint8))
INDICES = np.arange(1000, 1200)
EPOCHS = np.full(200, 3)


def plain_view(image: torch.Tensor, down: int, right: int, flipped: bool, pad: int) -> torch.Tensor:
    """The crop and the flip, by slices of one image [channels, H, W]."""
    channels, height, width = image.shape
    padded = torch.zeros(channels, height + 2 * pad, width + 2 * pad, dtype=image.dtype)
    padded[:, pad : pad + height, pad : pad + width] = image
    crop = padded[:, down : down + height, right : right + width]
    return torch.flip(crop, [2]) if flipped else crop


@pytest.mark.parametrize(("pad", "flip"), [(4, True), (2, False), (0, True), (7, True)])
def test_a_view_is_a_crop_of_the_padded_image_and_its_flip(pad: int, flip: bool) -> None:
    augmentation = Augmentation(0, pad, flip)
    views = augmentation(IMAGES, INDICES, EPOCHS)
    (down, right), flipped = augmentation.draw(INDICES, EPOCHS)
    assert set(down.tolist()) == set(right.tolist()) == set(range(2 * pad + 1))
    assert flipped.any() == flip and not flipped.all()
    for row, image in enumerate(IMAGES):
        expected = plain_view(image, int(down[row]), int(right[row]), bool(flipped[row]), pad)
        assert torch.equal(views[row], expected)


def test_the_draws_are_uniform_and_independent() -> None:
    n, places = 90_000, 9
    (down, right), flipped = Augmentation(1, 4, True).draw(np.arange(n), np.zeros(n, np.int64))
    cells = np.bincount((down * places + right) * 2 + flipped, minlength=2 * places**2)
    expected = n / len(cells)
    # Chi-square of 161 degrees of freedom: mean 161, standard deviation 18.
    assert abs(((cells - expected) ** 2 / expected).sum() - 161) < 5 * 18


def test_a_view_depends_on_seed_epoch_and_index_alone() -> None:
    augmentation = Augmentation(0, 4, True)
    views = augmentation(IMAGES, INDICES, EPOCHS)
    order = RANDOM.permutation(200)
    shuffled = augmentation(IMAGES[order], INDICES[order], EPOCHS[order])
    assert torch.equal(shuffled, views[order])
    for start in range(0, 200, 7):
        part = slice(start, start + 7)
        assert torch.equal(augmentation(IMAGES[part], INDICES[part], EPOCHS[part]), views[part])
    mixed = np.where(np.arange(200) % 2, 3, 4)
    assert torch.equal(augmentation(IMAGES, INDICES, mixed)[1::2], views[1::2])
    for other in (
        augmentation(IMAGES, INDICES, EPOCHS + 1),
        augmentation(IMAGES, INDICES + 1, EPOCHS),
        Augmentation(1, 4, True)(IMAGES, INDICES, EPOCHS),
    ):
        assert (other != views).flatten(1).any(1).float().mean() > 0.9


SETS = ["augment.crop_padding=2", "augment.flip=true"]


def configured(config: Path, *more: str) -> Config:
    return load(config, [*SETS, *more])


def test_points_are_augmented_where_an_epoch_is_named_alone(tiny_config: Path) -> None:
    config = configured(tiny_config)
    dataset = open_data(config.data)
    plain, train = dataset.split("train"), train_points(config, dataset)
    indices, epochs = np.arange(100), np.zeros(100, np.int64)
    expected = plain.read(indices, CPU)
    assert torch.equal(train.read(indices, CPU).inputs, expected.inputs)
    assert torch.equal(plain.read(indices, CPU, epochs).inputs, expected.inputs)
    seen = train.read(indices, CPU, epochs)
    assert torch.equal(seen.labels, expected.labels)
    assert not torch.equal(seen.inputs, expected.inputs)
    # The reference works on the stored bytes: black is 0 there, not the mean.
    assert isinstance(dataset, ArrowDataset)
    m = dataset.manifest
    assert m.mean is not None and m.std is not None
    raw = torch.round((expected.inputs * m.std[0] + m.mean[0]) * 255).to(torch.uint8)
    views = Augmentation(config.seed, 2, True)(raw, indices, epochs)
    mean, std = (torch.tensor(v, dtype=torch.float32) for v in (m.mean[0], m.std[0]))
    assert torch.equal(seen.inputs, (views.float() / 255 - mean) / std)


def run(config: Path, path: Path, workers: int, *more: str) -> dict[str, str]:
    flags = [word for item in (*SETS, *more) for word in ("--set", item)]
    made("train", config, "--run-dir", path, "--workers", str(workers), *flags)
    summary: dict[str, str] = json.loads((path / "summary.json").read_text())
    return {key: summary[key] for key in ("selected_sha256", "weights_sha256")}


def test_a_run_scores_and_trains_on_the_view_of_its_epoch(
    tiny_config: Path, tmp_path: Path
) -> None:
    """Algorithm 1 in plain torch, with views made one by one; 20 steps are more than 3 epochs."""
    more = ("selection.function=loss", "scorer.precision=fp32")
    got = run(tiny_config, tmp_path / "run", 0, *more)
    inputs = open_inputs(configured(tiny_config, *more))
    config, plan, dataset = inputs.config, inputs.plan, inputs.dataset
    assert isinstance(dataset, ArrowDataset)
    m, stored = dataset.manifest, dataset.split("train")
    assert m.mean is not None and m.std is not None
    mean, std = (torch.tensor(v, dtype=torch.float32) for v in (m.mean[0], m.std[0]))
    augmentation = Augmentation(config.seed, 2, True)
    shape, classes = dataset.input_shape, dataset.classes
    model = build_model(
        config.model.factory, config.model.args, shape, classes, config.seed
    ).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.trainer.lr, fused=True)
    torch.set_num_threads(config.trainer.threads)
    chosen: list[np.ndarray] = []
    for step in range(config.trainer.steps):
        indices = stored.index_of(plan.indices(plan.window(step)))
        epochs = np.full(len(indices), step // (plan.n // plan.n_B))
        batch = stored.read(indices, CPU)
        raw = torch.round((batch.inputs * std + mean) * 255)
        (down, right), flipped = augmentation.draw(indices, epochs)
        views = torch.stack(
            [
                plain_view(image, int(d), int(r), bool(f), 2)
                for image, d, r, f in zip(raw, down, right, flipped, strict=True)
            ]
        )
        inputs = (views / 255 - mean) / std
        with torch.no_grad():
            losses = torch.cat(
                [
                    torch.nn.functional.cross_entropy(model(x), y, reduction="none")
                    for x, y in zip(inputs.split(16), batch.labels.split(16), strict=True)
                ]
            )
        best = losses.argsort(descending=True, stable=True)[: config.selection.n_b]
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs[best]), batch.labels[best]).backward()
        optimizer.step()
        chosen.append(indices[best.numpy()])

    assert got == {
        "selected_sha256": selected_sha256(chosen),
        "weights_sha256": weights_sha256(model),
    }


def test_what_cannot_be_augmented_is_refused(tiny_config: Path, tmp_path: Path) -> None:
    floats = {s: (np.ones((100, 3), np.float32), np.arange(100) % 2) for s in ("train", "test")}
    write_dataset(tmp_path / "set", "float", floats)
    config = configured(tiny_config, f"data.path={tmp_path / 'set'}")
    with refused("augment: got inputs of kind float, allowed for images alone", ConfigError):
        train_points(config, open_data(config.data))
    result = rhoctl("train", tiny_config, "--dry-run", "--set", "augment.crop_padding=-1")
    assert result.code == 2
    assert "augment.crop_padding: got -1" in result.err
