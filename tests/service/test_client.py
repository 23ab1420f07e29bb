"""A loop of the user's own selects what ``rhoctl train`` selects, served or in one process."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from service_helpers import Cutting, hashes, inputs, service, train
from torch import Tensor, nn

from rhoselect.client import SelectionBatch, SelectionClient
from rhoselect.errors import DataError, FencedError, ModelError, ServiceError, UserError
from rhoselect.plan import Plan
from support import CLASSES, made, patches

pytestmark = pytest.mark.usefixtures("away")

METHODS = {
    "lag 0": [],
    "views in bf16 at lag 1": [
        *("selection.lag=1", "scorer.precision=bf16"),
        *("augment.crop_padding=2", "augment.flip=true"),
    ],
    "bn of the chunk": ["model.factory=rhoselect.models:small_cnn", "selection.bn=batch"],
    "state": ["selection.function=reducr"],
    "weights of losses": ["selection.function=gradient_norm_is"],
    "no weights needed": ["selection.function=uniform"],
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
    sets = [*sets, "trainer.steps=6"]
    expected = trained(tiny_config, tmp_path / "trained", sets)
    run = inputs(tiny_config, sets)
    tree = run.config.model_dump()
    assert hashes(run, local=True, config=tree) == expected
    with service(run, tmp_path / "served") as address:
        assert hashes(run, address=address) == expected
        assert hashes(run, address=address, data=dataset_dir) == expected, "its own copy of points"


def test_a_loop_goes_on_where_it_was(tiny_config: Path, tmp_path: Path) -> None:
    """Though its service went away, and another loop has taken its place there."""
    run = inputs(tiny_config)
    twin, model = run.new_model(), run.new_model()
    expected = train(run, SelectionClient(twin, local=True, config=tiny_config), twin)
    with service(run, tmp_path / "served") as address:
        selected = train(run, SelectionClient(model, address), model, steps=7)
    with service(run, tmp_path / "served") as address:
        resumed = SelectionClient(model, address, step=7)
        [batch] = itertools.islice(resumed, 1)
        assert torch.equal(torch.stack([*selected, batch.indices]), torch.stack(expected[:8]))
        SelectionClient(model, address)
        with pytest.raises(FencedError, match="a data-parallel loop make one together once torch"):
            resumed.step(model)


def test_a_connection_that_breaks_off_is_made_again(tiny_config: Path, tmp_path: Path) -> None:
    run = inputs(tiny_config)
    expected = hashes(run, local=True, config=tiny_config)
    with service(run, tmp_path / "served") as address:
        proxy = Cutting(address, cut_bytes=100_000)
        assert hashes(run, address=proxy.address) == expected
        assert proxy.cuts == 1
        proxy.close()


class Dicts(torch.utils.data.Dataset[dict[str, Any]]):
    """Items that are no pairs: a picture, its half, and what it shows under another name."""

    def __init__(self) -> None:
        images, labels = patches()["train"]
        self._images = torch.from_numpy(images).float() / 100
        self._labels = torch.from_numpy(labels)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, place: int) -> dict[str, Any]:
        image = self._images[place]
        return {"views": [image, image[:, :8]], "target": int(self._labels[place])}


class Points(torch.utils.data.Dataset[tuple[Tensor, Any]]):
    """Pairs of a flat picture and what ``label`` makes of its class."""

    def __init__(self, label: Callable[[int], Any] = int) -> None:
        images, labels = patches()["train"]
        self._images = torch.from_numpy(images).flatten(1).float() / 100
        self._labels = [label(each) for each in labels.tolist()]

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, place: int) -> tuple[Tensor, Any]:
        return self._images[place], self._labels[place]


def two_views(model: nn.Module, batch: SelectionBatch) -> Tensor:
    """Losses [C] of a data set of ``Dicts``."""
    whole, half = batch.inputs["views"]
    logits = model(whole.flatten(1)) + half.mean((1, 2, 3))[:, None]
    return F.cross_entropy(logits, batch.inputs["target"], reduction="none")


OWN = {
    "selection": {"n_b": 8, "n_B": 64, "chunk": 16},
    "trainer": {"steps": 20},
    "scorer": {"precision": "fp32"},
}


def test_points_and_losses_of_one_s_own_are_algorithm_1() -> None:
    """Against the plain loop: dicts as points, a loss that is no classifier's."""
    data, il = Dicts(), torch.rand(400)
    torch.set_num_threads(1)
    model = nn.Linear(256, CLASSES)
    twin = copy.deepcopy(model)
    selection = SelectionClient(
        model, local=True, config=OWN, data=data, losses=two_views, irreducible_losses=il
    )
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    selected = []
    for batch in selection:
        optimizer.zero_grad()
        two_views(model, batch).mean().backward()
        optimizer.step()
        selection.step(model)
        assert batch.labels is None
        selected.append(batch.indices)

    plan, optimizer = Plan(0, 400, 64, 16), torch.optim.AdamW(twin.parameters(), 1e-2)
    for step in range(20):
        candidates = torch.from_numpy(plan.indices(plan.window(step)))

        def losses(indices: Tensor) -> Tensor:
            items = torch.utils.data.default_collate([data[int(i)] for i in indices])
            return two_views(twin, SelectionBatch(0, indices, items, None, torch.ones(0)))

        with torch.no_grad():
            fresh = torch.cat([losses(chunk) for chunk in candidates.split(16)])
        best = (fresh - il[candidates]).argsort(descending=True, stable=True)[:8]
        assert torch.equal(selected[step], candidates[best]), f"step {step}"
        optimizer.zero_grad()
        losses(candidates[best]).mean().backward()
        optimizer.step()


def test_pairs_of_one_s_own_need_no_losses(dataset_dir: Path) -> None:
    images, labels = patches()["train"]
    data = torch.utils.data.TensorDataset(
        torch.from_numpy(images).float(), torch.from_numpy(labels)
    )
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, CLASSES))
    config = {**OWN, "selection": {**OWN["selection"], "function": "loss"}}
    batch = next(iter(SelectionClient(model, local=True, config=config, data=data)))
    assert torch.equal(batch.labels, torch.from_numpy(labels)[batch.indices])
    assert torch.equal(batch.inputs, data.tensors[0][batch.indices])


class Flipped(Dicts):
    """Augmented at random, as for a DataLoader."""

    def __getitem__(self, place: int) -> Any:
        item = super().__getitem__(place)
        flip = bool(torch.rand(()) < 0.5)
        return {**item, "views": [x.flip(-1) if flip else x for x in item["views"]]}


def test_random_items_are_refused() -> None:
    """A point would be scored on one view and trained on another."""
    with pytest.raises(
        DataError, match=r"data: got an(other)? item .*when item \d+ was read again"
    ):
        SelectionClient(
            nn.Linear(256, CLASSES),
            local=True,
            config=OWN,
            data=Flipped(),
            losses=two_views,
            irreducible_losses=torch.rand(400),
        )


def test_irreducible_losses_as_people_have_them(il_table: Path) -> None:
    """A tensor of another precision, one of a graph, a list, and the table of ``rhoctl il fit``, as
    an argument or as il.table."""
    points, model = Points(), nn.Linear(256, CLASSES)
    il = torch.rand(400).bfloat16()
    table = torch.tensor(pq.read_table(il_table)["irreducible_loss"].to_pylist())

    def scored(given: Any, **sections: Any) -> Tensor:
        config = {**OWN, **sections}
        where = {"local": True, "config": config, "data": points, "irreducible_losses": given}
        return next(iter(SelectionClient(model, **where))).indices

    expected = scored(il.float().numpy())
    for given in (il, il.float().requires_grad_(), il.tolist(), il.double().numpy()):
        assert torch.equal(scored(given), expected), type(given)
    expected = scored(table)
    assert torch.equal(scored(il_table), expected)
    assert torch.equal(scored(str(il_table)), expected)
    assert torch.equal(scored(None, il={"table": str(il_table)}), expected)


def test_labels_of_any_integer_type() -> None:
    model = nn.Linear(256, CLASSES)
    config = {**OWN, "selection": {**OWN["selection"], "function": "loss"}}
    found = [
        next(iter(SelectionClient(model, local=True, config=config, data=Points(kind)))).indices
        for kind in (np.int64, np.int32, np.uint8)
    ]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_random_numbers_of_the_loop_are_its_own(tiny_config: Path) -> None:
    """Though stochastic passes are drawn in its process."""
    sets = ["model.factory=user_code:Dropped", "model.args={}", "selection.function=bald"]
    run = inputs(tiny_config, sets)
    selection = SelectionClient(run.new_model(), local=True, config=run.config.model_dump())
    before = torch.get_rng_state()
    next(iter(selection))
    assert torch.equal(torch.get_rng_state(), before)


def summed(model: nn.Module, batch: SelectionBatch) -> Tensor:
    return two_views(model, batch).sum()


def failing(model: nn.Module, batch: SelectionBatch) -> Tensor:
    return model(batch.inputs["no such name"])


def test_mistakes_fail_at_construction_in_one_line(
    tiny_config: Path, il_table: Path, tmp_path: Path
) -> None:
    run, model = inputs(tiny_config), nn.Linear(256, CLASSES)
    tree, data, il = run.config.model_dump(), Dicts(), torch.rand(400)
    here = {"local": True, "config": tree}
    own = {"local": True, "config": OWN, "data": data, "losses": two_views}
    whole = {**own, "irreducible_losses": il}

    def changed(section: str, **keys: Any) -> dict[str, Any]:
        return {"local": True, "config": {**tree, section: {**tree[section], **keys}}}

    wrong: list[tuple[str, dict[str, Any]]] = [
        ("allowed an address, or local=True", {}),
        ("allowed an address, or local=True", {"local": True}),
        ("allowed an address, or local=True", {"address": "127.0.0.1:1", "config": tree}),
        ("no such file", {"local": True, "config": tmp_path / "none.toml"}),
        ("selection.n_b", changed("selection", n_b=65)),
        ("1.weight is missing", here),
        ("allowed 1 for a loop of your own", changed("trainer", publish_every=2)),
        ("allowed 0 to 20", {**here, "step": 21}),
        ("allowed 0 with selection.lag >= 1", {**changed("selection", lag=1), "step": 1}),
        ("allowed with an address", {**here, "token_file": tmp_path / "token"}),
        ("data.path", {**own, "data": "data/points"}),
        ("allowed with local=True and data", {**here, "losses": two_views}),
        ("set exactly one of data.path and data.dataset", {**here, "data": data}),
        ("map-style", {**own, "data": iter(data)}),
        ("losses: got none", {**own, "losses": None}),
        ("irreducible_losses: got none", own),
        ("irreducible_losses: got \\[3\\]", {**own, "irreducible_losses": il[:3]}),
        ("got inf for point 0, and 400 of", {**own, "irreducible_losses": il / 0}),
        (r"irreducible_losses: got a dict \(", {**own, "irreducible_losses": {}}),
        ("irreducible_losses .*no such file", {**own, "irreducible_losses": "none.parquet"}),
        (
            "got a table of 400 points, allowed the 64",
            {**own, "irreducible_losses": il_table, "data": [data[0]] * 64},
        ),
        (
            "allowed one of the two",
            {**whole, "config": {**OWN, "il": {"table": str(il_table)}}},
        ),
        (
            "gave \\[\\]",
            {**whole, "losses": summed},
        ),
        (
            "fails on two points: KeyError",
            {**whole, "losses": failing},
        ),
        ("cannot be read and joined", {**own, "data": [object()] * 64}),
        ("selection.n_B: got 64", {**own, "data": [data[0]] * 63}),
    ]
    for words, arguments in wrong:
        with pytest.raises(UserError, match=words) as caught:
            SelectionClient(model, **arguments)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model", [nn.Linear(2, 3), nn.Linear(2, 3).double()], ids=["32", "64"])
def test_items_of_float64_are_named(model: nn.Module) -> None:
    """Whatever the model's precision: the copy that scores has its own."""
    config = {**OWN, "selection": {**OWN["selection"], "function": "loss"}}
    item = {"views": [torch.zeros(2, dtype=torch.float64)]}

    def losses(model: nn.Module, batch: SelectionBatch) -> Tensor:
        return model(batch.inputs["views"][0]).sum(1)

    with pytest.raises(
        ModelError, match=r"^data: got inputs of float64, allowed float32, as a copy"
    ):
        SelectionClient(model, local=True, config=config, data=[item] * 64, losses=losses)


@pytest.mark.parametrize(
    ("label", "outputs", "words"),
    [
        (lambda k: F.one_hot(torch.tensor(k), CLASSES).float(), CLASSES, "labels .2, 4. of .*32"),
        (lambda k: F.one_hot(torch.tensor(k), CLASSES), CLASSES, "labels .2, 4. of torch.int64"),
        (float, CLASSES, "labels .2. of torch.float64"),
        (lambda k: 0, 1, r"logits \[2, 1\]"),
        (lambda k: "cat", CLASSES, "labels of type"),
        (lambda k: -100, CLASSES, "label -100, allowed 0 to 3"),
        (lambda k: CLASSES, CLASSES, "label 4, allowed 0 to 3"),
    ],
    ids=["multi-hot", "multi-hot integers", "real numbers", "one logit", "words", "-100", "4 of 4"],
)
def test_labels_that_are_no_class_want_a_loss_by_name(
    label: Callable[[int], Any], outputs: int, words: str
) -> None:
    """A cross-entropy with them would be a number that means nothing."""
    where: dict[str, Any] = {"local": True, "config": OWN, "data": Points(label)}
    with pytest.raises(ModelError, match=f"losses: got .*{words}") as caught:
        SelectionClient(nn.Linear(256, outputs), **where, irreducible_losses=torch.zeros(400))
    assert "\n" not in str(caught.value)


class Holding(nn.Module):
    """A wrapper of a library's own."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_models_that_are_wrapped_are_told_what_to_give(tiny_config: Path) -> None:
    """By the name of the attribute, when the client is made and at each step."""
    run, own = inputs(tiny_config), nn.Linear(256, CLASSES)
    bare = run.new_model()
    here = {"local": True, "config": run.config.model_dump()}
    points = {"local": True, "config": OWN, "data": Points(), "irreducible_losses": [0.0] * 400}
    for model, arguments, words in (
        (Holding(bare), here, r"got a Holding, .* give model\.network to Selec"),
        (torch.jit.script(own), points, "got a TorchScript module, allowed the torch.nn.Module"),
        (lambda inputs: inputs, points, "got a function, allowed a torch.nn.Module"),
    ):
        with pytest.raises(ModelError, match=words):
            SelectionClient(model, **arguments)
    selection = SelectionClient(bare, **here)
    next(iter(selection))
    with pytest.raises(ModelError, match=r"give model\.network to SelectionClient and to step"):
        selection.step(Holding(bare))


def test_a_model_that_accelerate_prepared_scores_in_our_precision() -> None:
    """Whatever the precision in which it trains."""
    accelerate = pytest.importorskip("accelerate")
    model, seen = nn.Sequential(nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, CLASSES)), []

    def losses(replica: nn.Module, batch: SelectionBatch) -> Tensor:
        seen.append(replica(batch.inputs))
        return F.cross_entropy(seen[-1], batch.labels, reduction="none")

    config = {**OWN, "selection": {**OWN["selection"], "function": "loss"}}
    where: dict[str, Any] = {"local": True, "config": config, "data": Points(), "losses": losses}
    SelectionClient(model, **where)  # it tries the losses
    prepared = accelerate.Accelerator(mixed_precision="bf16", cpu=True).prepare(model)
    SelectionClient(prepared, **where)
    half = len(seen) // 2  # each client tries the losses as often
    assert all(map(torch.equal, seen[:half], seen[half:]))
    assert prepared(torch.zeros(1, 256)).dtype is torch.float32, "still prepared"


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm")
def test_models_that_cannot_be_copied_yet_are_refused_in_one_line(tiny_config: Path) -> None:
    lazy = nn.Sequential(nn.Flatten(), nn.LazyLinear(CLASSES))
    normed = torch.nn.utils.weight_norm(nn.Linear(256, CLASSES))  # type: ignore[no-untyped-call]
    normed(torch.zeros(1, 256)).sum().backward()
    here = {"local": True, "config": inputs(tiny_config).config.model_dump()}
    points = {"local": True, "config": OWN, "data": Points(), "irreducible_losses": [0.0] * 400}
    sizes = r"got 1\.weight, 1\.bias of unknown size, allowed .* run one forward before"
    for model, arguments, words in (
        (lazy, here, sizes),
        (lazy, points, sizes),
        (normed, points, r"cannot be copied \(RuntimeError.*parametrizations\.weight_norm"),
    ):
        with pytest.raises(ModelError, match=words) as caught:
            SelectionClient(model, **arguments)
        assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_scripted_model_may_learn_what_another_scores(tiny_config: Path) -> None:
    """Only its tensors are asked for."""
    run = inputs(tiny_config)
    scripted = torch.jit.trace(run.new_model(), torch.zeros(1, 1, 16, 16))
    next(iter(SelectionClient(scripted, local=True, config=run.config.model_dump())))


def test_mistakes_towards_a_service(tiny_config: Path, tmp_path: Path) -> None:
    run = inputs(tiny_config)
    with service(run, tmp_path / "served") as address:
        for words, arguments in (
            ("is missing", {"model": nn.Linear(2, 2)}),
            ("got 3 points, allowed the 400", {"data": [1, 2, 3]}),
            ("manifest", {"data": tmp_path}),
        ):
            with pytest.raises(UserError, match=words):
                SelectionClient(**{"model": run.new_model(), "address": address, **arguments})
        selection = SelectionClient(run.new_model(), address)
        with pytest.raises(UserError, match="without a batch"):
            selection.step(run.new_model())
        with pytest.raises(UserError, match=r"without selection\.step"):
            list(selection)
    with pytest.raises(ServiceError, match="cannot be reached"):
        SelectionClient(run.new_model(), address)


def test_losses_that_a_method_needs_are_asked_for(tiny_config: Path) -> None:
    run = inputs(tiny_config, ["selection.function=reducr"])
    model = run.new_model()
    selection = SelectionClient(model, local=True, config=run.config.model_dump())
    next(iter(selection))
    with pytest.raises(UserError, match="without losses"):
        selection.step(model)
    with pytest.raises(UserError, match="got losses of type float, allowed a tensor"):
        selection.step(model, 0.5)
