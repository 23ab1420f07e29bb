"""`snapshots.only = "trainable"`: what does not learn stays where it was made; no result moves."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import tomlkit
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import adapted
import threaded
from rhoselect.config import load
from rhoselect.errors import ModelError, UserError
from rhoselect.inputs import RunInputs, open_inputs
from rhoselect.models.build import build_model
from rhoselect.trainer.build import new_learner
from support import hashes, made, rhoctl

CPU = torch.device("cpu")
STEPS = ["trainer.steps=4", "trainer.checkpoint_every=2", "trainer.eval_every=2", "trainer.lr=0.01"]
ONLY = "snapshots.only=trainable"
WIDTH_KEY = "model.args={}"
WIDE, SHARE = "model.args={width=512}", 0.02


def keys(name: str, *more: str) -> list[str]:
    return [f"model.factory=adapted:{name}", WIDTH_KEY, *STEPS, *more]


def train(config: Path, run: Path, sets: list[str]) -> tuple[str, str]:
    words = (word for item in sets for word in ("--set", item))
    made("train", config, "--run-dir", run, *words)
    return hashes(run)


def line(config: Path, run: Path, *sets: str) -> str:
    words = (word for item in sets for word in ("--set", item))
    result = rhoctl("train", config, "--run-dir", run, *words)
    assert (result.code, result.err.count("\n")) == (2, 1), result.err
    return result.err


def inputs(config: Path, name: str, *more: str) -> RunInputs:
    return open_inputs(load(config, keys(name, *more)))


def test_a_snapshot_holds_what_learns_and_buffers(tiny_config: Path) -> None:
    run = inputs(tiny_config, "Adapted", ONLY, WIDE, "selection.bn=running")
    model, layout = run.new_model(), run.new_replica(CPU).layout
    learns = {name for name, p in model.named_parameters() if p.requires_grad}
    read = {name for name, _ in model.named_buffers() if not name.endswith("num_batches_tracked")}
    assert layout.keys() == learns | read
    whole = inputs(tiny_config, "Adapted", WIDE, "selection.bn=running").new_replica(CPU).layout
    nbytes, all_bytes = (sum(t.nbytes for t in each.values()) for each in (layout, whole))
    assert nbytes < SHARE * all_bytes
    batch = inputs(tiny_config, "Adapted", ONLY, WIDE, "selection.bn=batch").new_replica(CPU).layout
    assert batch.keys() == learns


@pytest.mark.parametrize(
    ("name", "lag", "precision"), [("Adapted", 0, "bf16"), ("lora", 1, "fp32")]
)
def test_the_result_is_that_of_whole_snapshots(
    tiny_config: Path, tmp_path: Path, name: str, lag: int, precision: str
) -> None:
    """In one process, with three scorers, and resumed; at lag 1 from snapshots in a checkpoint."""
    sets = keys(name, f"selection.lag={lag}", f"scorer.precision={precision}")
    expected = train(tiny_config, tmp_path / "all", sets)
    assert train(tiny_config, tmp_path / "only", [*sets, ONLY]) == expected
    summary, _ = threaded.run(tiny_config, tmp_path / "threads", 3, [*sets, ONLY])
    assert (summary["selected_sha256"], summary["weights_sha256"]) == expected
    run = tmp_path / "only"
    for done in ("checkpoints/step-000000004.safetensors", "steps.parquet", "summary.json"):
        (run / done).unlink()
    made("train", "--resume", "--run-dir", run)
    assert hashes(run) == expected


@pytest.mark.matrix
def test_folded_convolutions_may_be_frozen(tiny_config: Path, tmp_path: Path) -> None:
    small = ["trainer.steps=2", "selection.n_B=16", "selection.bn=running"]
    sets = keys("convolutional", *small, "scorer.fold_batchnorm=true")
    expected = train(tiny_config, tmp_path / "all", sets)
    assert train(tiny_config, tmp_path / "only", [*sets, ONLY]) == expected


def test_checkpoints_and_the_average_are_without_what_does_not_learn(
    tiny_config: Path, tmp_path: Path
) -> None:
    sets = keys("Adapted", "trainer.ema=0.5")
    expected = train(tiny_config, tmp_path / "all", sets)
    assert train(tiny_config, tmp_path / "only", [*sets, ONLY]) == expected
    last = "checkpoints/step-000000004.safetensors"
    sizes = [(tmp_path / run / last).stat().st_size for run in ("only", "all")]
    assert sizes[0] < 0.5 * sizes[1]
    assert not any(".base." in name for name in load_file(tmp_path / "only" / last))
    whole = load_file(tmp_path / "only" / "model.safetensors")
    inputs(tiny_config, "Adapted").new_model().load_state_dict(whole)


def test_optimizers_train_what_learns(tiny_config: Path) -> None:
    """Also one that would decay the others."""
    run = inputs(tiny_config, "Adapted", "trainer.weight_decay=0.1")
    learner = new_learner(run, CPU)
    before = {name: p.detach().clone() for name, p in learner.model.named_parameters()}
    learner.update(run.train.read(run.train.first(8), CPU), None, 0)
    for name, parameter in learner.model.named_parameters():
        assert torch.equal(parameter, before[name]) != parameter.requires_grad, name
    learns = [n for n, p in learner.model.named_parameters() if p.requires_grad]
    steps = [name for name in learner.optimizers.state_dict() if name.endswith("exp_avg")]
    assert len(steps) == len(learns)


def test_a_run_of_peft_leaves_adapters_in_its_form(tiny_config: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    train(tiny_config, tmp_path / "run", keys("lora", ONLY))
    run = inputs(tiny_config, "lora")
    model, batch = run.new_model(), run.test.read(run.test.first(16), CPU)
    model.load_state_dict(load_file(tmp_path / "run" / "model.safetensors"))
    names = sorted(path.name for path in (tmp_path / "run" / "adapter").iterdir())
    assert names == ["adapter_config.json", "adapter_model.safetensors"]
    base = run.new_model().unload()
    again = PeftModel.from_pretrained(base, tmp_path / "run" / "adapter")
    found: Tensor = again.eval()(batch.inputs)
    torch.testing.assert_close(found, model.eval()(batch.inputs), rtol=0, atol=0)
    assert not (tmp_path / "run" / "adapter" / "README.md").exists()


def test_the_example_of_the_page_runs(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parent.parent / "docs" / "adapters.md").read_text()
    code, _ = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    [settings] = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "my_adapters.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    base = inputs(tiny_config, "Adapted")
    model = build_model("rhoselect.models:mlp", {"width": 32}, base.dataset.input_shape, 4, 0)
    save_file(model.state_dict(), "base.safetensors")
    config = tomllib.loads(tiny_config.read_text()) | tomllib.loads(settings)
    Path("run.toml").write_text(tomlkit.dumps(config))
    train(Path("run.toml"), tmp_path / "run", STEPS)
    assert (tmp_path / "run" / "adapter" / "adapter_config.json").exists()


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("random_base", "adapted:random_base makes other frozen parameters at each call: layers.1"),
        ("Drifting", "a training step changes frozen parameters: layers.1.base.bias;"),
        ("Merging", r"eval() changes frozen parameters of the model: layers.1.base.weight"),
    ],
)
def test_a_base_that_changes_is_refused_at_start(
    tiny_config: Path, tmp_path: Path, name: str, problem: str
) -> None:
    error = line(tiny_config, tmp_path / "run", *keys(name, ONLY))
    assert problem in error and "what changes must learn" in error
    assert not (tmp_path / "run").exists()


def test_a_base_that_changes_later_stops_the_run_before_its_checkpoint(
    tiny_config: Path, tmp_path: Path
) -> None:
    error = line(tiny_config, tmp_path / "run", *keys("LateDrifting", ONLY))
    assert "training changed frozen parameters by step 2: layers.1.base.bias;" in error
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def test_a_resume_wants_the_same_base_and_the_same_snapshots(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    train(tiny_config, run, keys("Adapted", ONLY))
    resume = ("train", "--resume", "--run-dir", run, "--set", "trainer.steps=6")
    changed = rhoctl(*resume, "--set", "snapshots.only=all")
    assert changed.code == 2 and "changed configuration: snapshots.only;" in changed.err
    monkeypatch.setattr(adapted.LowRank, "gain", 2.0)
    other = rhoctl(*resume)
    assert (other.code, other.err.count("\n")) == (2, 1)
    assert "got other data or irreducible losses (or first weights) than it began with" in other.err


def test_a_base_in_bfloat16_has_the_hash_of_its_values(tiny_config: Path) -> None:
    run = inputs(tiny_config, "Adapted", ONLY)
    model = run.new_model().bfloat16()
    with pytest.raises(ModelError, match=r"problem: layers\.1"):
        run.frozen.check(model.state_dict(), "problem")
    frozen = type(run.frozen).of(model)
    frozen.check(model.float().state_dict(), "problem")
    with pytest.raises(UserError, match=r"problem: layers\.1\.base"):
        frozen.check({}, "problem")
