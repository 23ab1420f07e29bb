"""Which GPU each process of a run computes on. None is needed to say that."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rhoselect import compute, devices
from rhoselect.config import Config, load, resolve
from rhoselect.errors import ConfigError
from rhoselect.inputs import open_inputs
from rhoselect.trainer.rehearsal import check_start


def on(tiny_config: Path, scorer: str, trainer: str, *sets: str) -> Config:
    return load(tiny_config, [f"scorer.device={scorer}", f"trainer.device={trainer}", *sets])


@pytest.mark.parametrize(
    ("gpus", "trainer", "scorers"),
    [
        (8, 0, [1, 2, 3, 4, 5, 6, 7, 0]),
        (4, 0, [1, 2, 3, 0, 1, 2, 3, 0]),
        (4, 2, [3, 0, 1, 2, 3, 0, 1, 2]),
        (4, None, [0, 1, 2, 3, 0, 1, 2, 3]),
        (1, 0, [0] * 8),
        (1, None, [0] * 8),  # what Ray shows an actor on a cluster
    ],
    ids=["8 GPUs", "4 GPUs", "trainer on GPU 2", "trainer elsewhere", "1 GPU", "1 of a cluster"],
)
def test_scorers_have_the_gpus_after_the_trainers_in_turn(
    gpus: int, trainer: int | None, scorers: list[int]
) -> None:
    assert [devices.scorer_gpu(slot, gpus, trainer) for slot in range(8)] == scorers


@pytest.mark.parametrize("gpus", range(1, 9))
def test_nothing_is_shared_while_there_are_gpus_enough(gpus: int, tiny_config: Path) -> None:
    config = on(tiny_config, "cuda", "cuda")
    for workers in range(1, 12):
        used = [0, *(devices.scorer_gpu(slot, gpus, 0) for slot in range(workers))]
        shared = len(set(used)) < len(used)
        assert (devices.sharing(config, workers, gpus) is not None) == shared
        assert set(used) == set(range(min(gpus, workers + 1))), "none idles while one is shared"


@pytest.mark.parametrize(
    ("scorer", "trainer", "workers", "gpus", "said"),
    [
        (
            "cuda",
            "cuda",
            8,
            8,
            "9 processes share 8 GPUs and take turns; with --workers 7 each has its own",
        ),
        (
            "cuda",
            "cuda",
            1,
            1,
            "2 processes share 1 GPU and take turns; with --workers 0 each has its own",
        ),
        ("cuda", "cpu", 5, 4, "5 processes share 4 GPUs and take turns; with --workers 4"),
        ("cuda", "cpu", 4, 4, None),
        ("cuda:1", "cuda", 9, 4, None),  # the user's own wish
        ("cpu", "cuda", 9, 4, None),
        ("cpu", "cpu", 9, 0, None),
    ],
)
def test_shared_gpus_are_one_line(
    tiny_config: Path, scorer: str, trainer: str, workers: int, gpus: int, said: str | None
) -> None:
    line = devices.sharing(on(tiny_config, scorer, trainer), workers, gpus)
    if said is None:
        assert line is None
    else:
        assert line is not None and "\n" not in line
        with pytest.raises(ConfigError, match=said):
            raise ConfigError(line)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without GPUs, as the head of many clusters."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


@pytest.mark.usefixtures("no_gpu")
def test_a_driver_without_gpus_starts_a_run_that_has_them_elsewhere(tiny_config: Path) -> None:
    """It opens the inputs; those who compute on a GPU look for it. bf16 is taken to be there."""
    sets = ["cluster.address=auto", "scorer.precision=auto"]
    inputs = open_inputs(on(tiny_config, "cuda", "cuda", *sets))
    assert inputs.config.scorer.precision == "bf16"
    check_start(inputs, workers=2)
    with pytest.raises(ConfigError, match=r"scorer\.device: got 'cuda', .* sees 0 CUDA devices"):
        devices.scorer_device(inputs.config, 0, beside_trainer=False)
    with pytest.raises(ConfigError, match=r"trainer\.device: got 'cuda', .* sees 0 CUDA devices"):
        devices.trainer_device(inputs.config)


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("workers", [0, 2])
def test_on_one_machine_the_driver_says_that_a_gpu_is_missing(
    tiny_config: Path, workers: int
) -> None:
    """Before it makes a folder; its actors see what it sees."""
    with pytest.raises(ConfigError, match=r"trainer\.device: got 'cuda', .* sees 0 CUDA devices"):
        check_start(open_inputs(on(tiny_config, "cuda", "cuda")), workers)
    with pytest.raises(ConfigError, match=r"scorer\.device: got 'cuda:1', .*process scores, too"):
        check_start(open_inputs(on(tiny_config, "cuda:1", "cpu")), workers)


@pytest.mark.usefixtures("no_gpu")
def test_a_service_without_gpus_leaves_scoring_to_scorers_elsewhere(tiny_config: Path) -> None:
    """Not those on its machine, and not if it has none."""
    config = on(tiny_config, "cuda", "cpu", "cluster.address=auto")
    assert devices.service_device(config, workers=2) is None
    on_cpus = on(tiny_config, "cpu", "cuda", "cluster.address=auto")
    assert devices.service_device(on_cpus, workers=2) == torch.device("cpu")
    for other, workers in ((config, 0), (on(tiny_config, "cuda", "cpu"), 2)):
        with pytest.raises(ConfigError, match=r"scorer\.device: got 'cuda', .*process scores, too"):
            devices.service_device(other, workers)


@pytest.mark.usefixtures("no_gpu")
def test_a_scorer_on_the_cpu_does_not_look_for_the_trainers_gpu(tiny_config: Path) -> None:
    config = open_inputs(on(tiny_config, "cpu", "cuda")).config
    assert devices.scorer_device(config, 3, beside_trainer=True) == torch.device("cpu")
    assert devices.own_device(config) == torch.device("cpu")


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many are counted; none is used."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)


@pytest.mark.usefixtures("four_gpus")
def test_the_trainers_own_scorer_is_on_its_gpu(tiny_config: Path) -> None:
    """A second context, on another GPU, would take memory and wait for peer copies."""
    for scorer, trainer, own in (
        ("cuda", "cuda", "cuda:0"),
        ("cuda", "cuda:2", "cuda:2"),
        ("cuda:3", "cuda:2", "cuda:2"),
        ("cpu", "cuda", "cpu"),
        ("cuda:3", "cpu", "cuda:3"),
    ):
        config = on(tiny_config, scorer, trainer)
        assert devices.own_device(config) == torch.device(own)


@pytest.mark.usefixtures("four_gpus")
def test_a_scorers_device_by_slot(tiny_config: Path) -> None:
    for scorer, trainer, beside, slots in (
        ("cuda", "cuda", True, ["cuda:1", "cuda:2", "cuda:3", "cuda:0"]),
        ("cuda", "cuda:3", True, ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]),
        ("cuda", "cuda", False, ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]),
        ("cuda", "cpu", True, ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]),
        ("cuda:2", "cuda", True, ["cuda:2"] * 4),
        ("cpu", "cuda", True, ["cpu"] * 4),
    ):
        config = on(tiny_config, scorer, trainer)
        found = [devices.scorer_device(config, slot, beside) for slot in range(4)]
        assert found == list(map(torch.device, slots))


@pytest.mark.usefixtures("four_gpus")
def test_a_gpu_beyond_those_here_is_one_line(tiny_config: Path) -> None:
    config = on(tiny_config, "cuda:4", "cuda")
    with pytest.raises(ConfigError, match=r"'cuda:4', .* sees 4 CUDA devices; choose one of"):
        devices.scorer_device(config, 0, beside_trainer=True)


@pytest.mark.usefixtures("no_gpu")
def test_a_machine_without_gpus_asks_none_about_bf16(tiny_config: Path) -> None:
    assert compute.has_fast_bf16("cuda:1")
    assert resolve(load(tiny_config)).trainer.device == "cpu"
