"""What share of a bare loop's speed the scoring of a causal language model keeps.

The bare loop is written by hand: it stacks the token ids of a chunk, calls the model in inference
mode and takes the cross-entropy of all logits at once. The scoring path reads the same chunk from
the data set, calls a replica, which computes the task's losses, and scores them. The two take turns
in one process. ``share`` is the median over turns of the bare seconds by the path's, ``cpu_share``
that of processor seconds; ``difference`` is the greatest of their losses. The model is a GPT-2 of
the size asked for, of random weights.

    python benchmarks/causal_lm.py --json docs/results/causal_lm.json
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor, nn

import arguments
from harness import show, write, write_config
from rhoselect.compute import DTYPES, keep_memory
from rhoselect.config import load
from rhoselect.inputs import RunInputs, open_inputs

POINTS = {"train": 512, "test": 8}
COLUMNS = (
    *("vocabulary", "precision", "bare_ms", "path_ms", "share", "cpu_share"),
    *("tokens_per_second", "difference"),
)


class Tokens:
    """Random sequences of as many tokens."""

    def __init__(self, split: str, vocabulary: int, length: int) -> None:
        if split not in POINTS:
            raise KeyError(split)
        random = torch.Generator().manual_seed(0)
        shape = (POINTS[split], length)
        self.ids = torch.randint(1, vocabulary, shape, generator=random)
        self.fingerprint = f"{vocabulary} {length}"

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, place: int) -> Tensor:
        return self.ids[place]


def gpt2(vocabulary: int, length: int, width: int, layers: int) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": width, "n_layer": layers, "n_head": max(1, width // 64)}
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, n_positions=length, **sizes, **ends))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocabularies", nargs="+", type=int, default=[8192, 50257])
    parser.add_argument("--precisions", nargs="+", default=["fp32"], choices=list(DTYPES))
    parser.add_argument("--chunk", type=int, default=16, help="sequences of a forward")
    parser.add_argument("--length", type=int, default=128, help="tokens of a sequence")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    options = arguments.parse(parser, vocabularies=[512], chunk=4, length=16, layers=1, turns=2)
    torch.set_num_threads(1)
    keep_memory()
    cases = [(size, how) for size in options.vocabularies for how in options.precisions]
    rows = []
    for vocabulary, precision in track(cases, "models"):
        with tempfile.TemporaryDirectory() as scratch:
            inputs = inputs_of(Path(scratch) / "run.toml", vocabulary, precision, options)
        figures = measured(inputs, precision, options)
        rows.append({"vocabulary": vocabulary, "precision": precision, **figures})
    show("scoring a causal LM against a bare loop", rows, COLUMNS)
    names = ("chunk", "length", "width", "layers", "turns")
    write(options.json, {**{name: getattr(options, name) for name in names}, "rows": rows})


def inputs_of(
    config: Path, vocabulary: int, precision: str, options: argparse.Namespace
) -> RunInputs:
    sizes = {"vocabulary": vocabulary, "length": options.length}
    settings = {
        "data.dataset": "causal_lm:Tokens",
        "data.args": sizes,
        "task.name": "causal_lm",
        "model.factory": "causal_lm:gpt2",
        "model.args": {**sizes, "width": options.width, "layers": options.layers},
        "selection.function": "loss",
        "selection.n_b": 1,
        "selection.n_B": options.chunk,
        "selection.chunk": options.chunk,
        "scorer.precision": precision,
    }
    write_config(config, settings)
    return open_inputs(load(config))


def measured(inputs: RunInputs, precision: str, options: argparse.Namespace) -> dict[str, float]:
    """The figures of one model, on chunks that change from turn to turn."""
    device, plan, data = options.device, inputs.plan, Tokens("train", **inputs.config.data.args)
    model = inputs.new_model().to(device).eval().requires_grad_(False)
    replica = inputs.new_replica(device)
    replica.load(model.state_dict().items())
    dtype = DTYPES[precision]

    def bare(indices: Any) -> Any:
        ids = torch.stack([data[place] for place in indices.tolist()]).to(device)
        low = torch.autocast(device.type, dtype, enabled=dtype is not torch.float32)
        with torch.inference_mode(), low:
            logits = model(input_ids=ids).logits[:, :-1].float().flatten(0, 1)
            losses = F.cross_entropy(logits, ids[:, 1:].flatten(), reduction="none")
        return losses.view(len(ids), -1).mean(1).double().cpu().numpy()

    def path(indices: Any) -> Any:
        output = replica(inputs.train.read(indices, device))
        return inputs.scoring(indices, output, {})[0]

    found: dict[Callable[[Any], Any], list[tuple[float, float]]] = {bare: [], path: []}
    difference = 0.0
    for turn in range(options.turns + 1):
        indices, losses = plan.indices(plan.chunk_positions(turn, 0)), []
        for each, times in found.items():
            began = time.perf_counter(), time.process_time()
            losses.append(each(indices))
            times.append((time.perf_counter() - began[0], time.process_time() - began[1]))
        difference = max(difference, float(np.abs(losses[0] - losses[1]).max()))
    of_bare, of_path = (np.array(times[1:]) for times in found.values())  # the first warms up
    share, cpu_share = np.median(of_bare / of_path, axis=0).tolist()
    bare_s, path_s = (float(np.median(times[:, 0])) for times in (of_bare, of_path))
    return {
        "bare_ms": 1e3 * bare_s,
        "path_ms": 1e3 * path_s,
        "share": share,
        "cpu_share": cpu_share,
        "tokens_per_second": options.chunk * options.length / path_s,
        "difference": difference,
    }


if __name__ == "__main__":
    main()
