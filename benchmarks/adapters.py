"""What a snapshot of a transformer with LoRA weighs, whole and without its base.

python benchmarks/adapters.py --model DIR [--quick] [--json FILE]

DIR has a model of transformers; without it a small one is made.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForSequenceClassification, BertConfig

from arguments import parse
from rhoselect.models.frozen import Frozen
from rhoselect.models.numerics import Numerics
from rhoselect.models.replica import Replica
from rhoselect.tasks import Classification

SMALL = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}


def adapted(folder: Path | None, rank: int) -> nn.Module:
    """A classifier of four classes, of which the head and the adapters learn."""
    kind = AutoModelForSequenceClassification
    if folder is None:
        base = kind.from_config(BertConfig(num_labels=4, **SMALL))
    else:
        base = kind.from_pretrained(folder, num_labels=4).float()
    lora = LoraConfig(r=rank, target_modules=["query", "value"], modules_to_save=["classifier"])
    model: nn.Module = get_peft_model(base, lora)
    return model


def nbytes(replica: Replica) -> int:
    """Bytes of a snapshot for ``replica``."""
    return sum(tensor.nbytes for tensor in replica.layout.values())


def main() -> None:
    """Print the sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="folder of a model of transformers")
    parser.add_argument("--rank", type=int, default=8)
    asked = parse(parser, model=None)
    model = adapted(asked.model, asked.rank)
    frozen, parameters = Frozen.of(model), sum(p.numel() for p in model.parameters())
    replica = Replica(model, Numerics("bf16"), torch.device("cpu"), Classification())
    whole = nbytes(replica)
    replica.keep(frozen.hashes)
    only = nbytes(replica)
    print(f"{parameters} parameters; a snapshot: {whole} bytes, with what learns {only}")
    print(f"{only / whole:.2%}")
    if asked.json:
        figures = {"parameters": parameters, "all_bytes": whole, "trainable_bytes": only}
        asked.json.write_text(json.dumps({"command": sys.argv, **figures}, indent=2))


if __name__ == "__main__":
    main()
