"""Bad values on the command line and in configuration files."""

from __future__ import annotations

from cases import Arguments, Case, Place, setting


def configured(name: str, content: bytes, pattern: str) -> Case:
    """A configuration file of its own."""

    def build(place: Place) -> Arguments:
        return ["train", place.file(content, "run.toml"), "--run-dir", place.new]

    return Case("configuration file", name, build, pattern)


def line(name: str, arguments: str, pattern: str, kind: str = "command line") -> Case:
    """A command line that needs no files."""
    return Case(kind, name, lambda _: arguments.split(), pattern)


WHOLE = ("selection.n_B=8", "selection.chunk=8")
"""InfoBatch has no windows."""

SETTINGS = [
    configured("not TOML", b"[data\n", r"cannot be read as TOML"),
    configured("not text", b"\xff\xfe", r"is not UTF-8, which TOML is always in"),
    configured("empty", b"", r"data: missing; .*--set data"),
    configured("key twice", b"seed = 1\nseed = 2\n", r"cannot be read as TOML: Cannot overwrite"),
    configured("Latin-1", b'a = "gr\xf6\xdfe"\n', r"is not UTF-8, .*; save it as UTF-8"),
    configured("nested too deep", b"a = " + b"[" * 20000, r"cannot be read as TOML: .*recursion"),
    configured(
        "number of 5000 digits", b"seed = " + b"9" * 5000, r"cannot be read as TOML: Exceeds"
    ),
    Case(
        "configuration file",
        "missing",
        lambda p: ["train", p.folder / "no.toml", "--run-dir", p.new],
        r"configuration \S+no\.toml: no such file",
    ),
    Case(
        "configuration file",
        "folder",
        lambda p: ["train", p.folder, "--run-dir", p.new],
        r"configuration \S+: cannot be read",
    ),
    Case(
        "configuration file",
        "of a plan",
        lambda p: ["plan", p.file("[data\n")],
        r"cannot be read as TOML",
    ),
    line("command", "trian", r"'trian'.*see 'rhoctl --help'"),
    line("command of a group", "data exprot", r"'exprot'"),
    line("group alone", "il", r"(?i)missing command"),
    line("option", "train --worker 2", r"--worker"),
    line("workers", "train --workers -1", r"--workers"),
    line("no argument", "data info", r"(?i)missing argument .path"),
    line("no passes", "il fit --data d --out o --epochs 0", r"--epochs"),
    line("resume of what", "train --resume", r"--resume: needs --run-dir"),
    line("devices", "plan run.toml --devices 0", r"--devices"),
    *(
        line(name, f"compare {rest}", pattern, "comparison")
        for name, rest, pattern in (
            ("no budget", "run.toml", r"--budget and --steps, allowed one of them"),
            ("budget", "run.toml --budget 1,x", r"--budget: got '1,x', allowed"),
            ("arm", "r.toml --steps 9 --without best", r"--without: got best, allowed \S+"),
            ("file", "run.toml --steps 9", r"configuration run.toml: no such file"),
        )
    ),
    *(
        setting("infobatch", key, pattern, "selection.function=infobatch", *sets)
        for key, pattern, *sets in (
            ("r of 0", r"infobatch\.r: got 0\.0; .*greater than 0", "infobatch.r=0.0"),
            ("r of 1", r"infobatch\.r: got 1\.0; .*less than 1", "infobatch.r=1.0"),
            ("delta of 0", r"infobatch\.delta: got 0\.0; .*greater", "infobatch.delta=0.0"),
            ("delta above 1", r"infobatch\.delta: got 1\.5; .*less", "infobatch.delta=1.5"),
            ("a window", r"selection\.n_B: got 64, allowed 8 with .*'infobatch'"),
            ("a lag", r"selection\.lag: got 1, allowed 0 with", *WHOLE, "selection.lag=1"),
            ("audits", r"selection\.audit_every: got 5,", *WHOLE, "selection.audit_every=5"),
            ("both", r"n_B: got 64, allowed 8; selection\.lag: got 1,", "selection.lag=1"),
            ("a shortlist", r"selection\.shortlist: got 2,", *WHOLE, "selection.shortlist=2"),
        )
    ),
    setting(
        "tracker", "unknown", r"tracker: got 'board', allowed .*'mlflow'", "trainer.tracker=board"
    ),
    setting("tracker", "no class", r"tracker: .* has no 'No'", "trainer.tracker=user_code:No"),
    line("runs", "report", r"(?i)missing argument .runs"),
    setting("key", "unknown section", r"modle: unknown key; allowed .*model", "modle.args.width=3"),
    setting("key", "unknown top-level key", r"sede: unknown key; allowed .*seed", "sede=1"),
    setting("key", "unknown key", r"selection\.n_C: unknown key; allowed .*n_B", "selection.n_C=3"),
    setting("key", "no equals sign", r"--set: got 'seed', allowed section\.key=value", "seed"),
    setting("key", "no key", r"--set: got '=3', allowed section\.key=value", "=3"),
    setting(
        "key", "empty part of a key", r"--set: got 'trainer\.\.lr=3', allowed", "trainer..lr=3"
    ),
    setting(
        "key",
        "key below a value",
        r"--set seed\.deep: .*'seed', which is not a section",
        "seed.deep=3",
    ),
    setting(
        "key",
        "both sources of data",
        r"exactly one of data\.path and data\.dataset",
        "data.dataset=m:f",
    ),
    setting(
        "key",
        "points of a store in the memory of a device",
        r"data\.resident: got 'device', allowed for a data\.path on disk; set ''",
        "data.path=s3://bucket/set",
        "data.resident=device",
    ),
    setting(
        "type of a value",
        "word for a number",
        r"trainer\.steps: got 'many'; .*integer",
        "trainer.steps=many",
    ),
    setting(
        "type of a value",
        "float for an integer",
        r"selection\.n_b: got 8\.0; .*integer",
        "selection.n_b=8.0",
    ),
    setting("type of a value", "bool for an integer", r"seed: got True; .*integer", "seed=true"),
    setting(
        "type of a value",
        "number for a word",
        r"selection\.function: got 3; .*string",
        "selection.function=3",
    ),
    setting(
        "type of a value",
        "number for a section",
        r"selection: got 3, allowed a section",
        "selection=3",
    ),
    setting(
        "type of a value",
        "no such choice",
        r"selection\.bn: got 'frozen'; .*'running'",
        "selection.bn=frozen",
    ),
    setting(
        "type of a value",
        "list as a model argument",
        r"model\.args\.width: got \[1\]",
        "model.args.width=[1]",
    ),
    setting("type of a value", "no value", r"trainer\.lr: got ''; .*number", "trainer.lr="),
    setting(
        "type of a value",
        "NUL in a path",
        r"data\.cache_dir: got 'a\\x00b'; .*without a NUL",
        'data.cache_dir="a\\u0000b"',
    ),
    setting(
        "range of a value",
        "negative seed",
        r"seed: got -1; .*greater than or equal to 0",
        "seed=-1",
    ),
    setting(
        "range of a value", "not a number", r"trainer\.lr: got nan; .*finite", "trainer.lr=nan"
    ),
    setting(
        "range of a value",
        "infinite",
        r"selection\.temperature: got inf; .*finite",
        "selection.temperature=inf",
    ),
    setting("range of a value", "no steps", r"trainer\.steps: got 0; .*greater", "trainer.steps=0"),
    setting(
        "range of a value",
        "chunk < 1",
        r"selection\.chunk: got 0; .*greater than or equal to 1",
        "selection.chunk=0",
    ),
    setting(
        "range of a value", "core-set of nothing", r"svp\.keep: .*greater than 0", "svp.keep=0.0"
    ),
    setting(
        "range of a value",
        "beyond 64 bits",
        r"trainer\.steps: got 9{23}; .*64 bits",
        "trainer.steps=" + "9" * 23,
    ),
    setting(
        "range of a value",
        "more threads than anyone has",
        r"trainer\.threads: .*less than or equal to 1024",
        "trainer.threads=100000000",
    ),
    setting(
        "range of a value",
        "target that is no number",
        r"trainer\.targets\.0: got 'best'; .*valid number",
        "trainer.targets=['best']",
    ),
    setting("range of a value", "port", r"metrics\.port: got 70000; .*65535", "metrics.port=70000"),
    setting(
        "keys together",
        "n_b > n_B",
        r"selection\.n_b: got 65, allowed at most .*64",
        "selection.n_b=65",
    ),
    setting(
        "keys together",
        "n_B % chunk",
        r"selection\.chunk: got 15, allowed a divisor .*64",
        "selection.chunk=15",
    ),
    setting(
        "keys together",
        "chunk > n_B",
        r"selection\.chunk: got 128, allowed a divisor",
        "selection.chunk=128",
    ),
    setting(
        "keys together",
        "shortlist beyond the window",
        r"selection\.shortlist: got 9, allowed at most n_B / n_b = 8",
        "selection.lag=1",
        "selection.shortlist=9",
    ),
    setting(
        "keys together",
        "window > train split",
        r"selection\.n_B: got 416, allowed at most the 400 points",
        "selection.n_B=416",
    ),
    setting(
        "keys together",
        "folded BatchNorm of a batch",
        r"scorer\.fold_batchnorm: got true with selection\.bn = 'auto', allowed .*\"running\"",
        "scorer.fold_batchnorm=true",
    ),
    setting(
        "keys together",
        "BatchNorm of one point",
        r"selection\.chunk: got 1, with which one point .*; choose another, or set selection\.bn",
        "model={factory = 'user_code:Dropped', args = {}}",
        "selection.chunk=1",
    ),
    setting(
        "keys together",
        "BatchNorm of a shortlist's last point",
        r"selection\.chunk: got 16, with which one point .* selection\.bn = 'batch'",
        "model={factory = 'user_code:Dropped', args = {}}",
        "selection={n_b = 11, n_B = 64, chunk = 16, lag = 1, shortlist = 3, bn = 'batch'}",
    ),
    setting(
        "removed keys",
        "a key of 0.1",
        r"selection\.max_lag: removed in 0\.2; delete the key and set selection\.lag",
        "selection.max_lag=2",
    ),
    setting(
        "removed keys",
        "a value of 0.1",
        r"selection\.lag: got 'auto', removed in 0\.2; set a number",
        "selection.lag=auto",
    ),
    setting(
        "removed keys",
        "a mode of 0.1",
        r"selection\.mode: removed in 0\.2; delete the key and the section \[stream\]",
        "selection.mode=stream",
    ),
    setting(
        "keys together",
        "streamed order of a torch data set",
        r"data\.order: got 'streamed', allowed 'shuffled'",
        "data={dataset = 'm:f', order = 'streamed'}",
    ),
    setting(
        "device",
        "scorer's device",
        r"scorer\.device: got 'abacus', allowed auto",
        "scorer.device=abacus",
    ),
    setting(
        "device",
        "trainer's device",
        r"trainer\.device: got 'meta', allowed auto",
        "trainer.device=meta",
    ),
    setting(
        "device",
        "CUDA device",
        r"trainer\.device: got 'cuda:99', but .*CUDA",
        "trainer.device=cuda:99",
    ),
    setting(
        "score function",
        "unknown function",
        r"selection\.function: got 'best', allowed reducible_loss",
        "selection.function=best",
    ),
    setting(
        "score function",
        "function of no module",
        r"selection\.function: .*'no_such_module' cannot be imported",
        "selection.function=no_such_module:f",
    ),
    setting(
        "score function",
        "not a score function",
        r"selection\.function .*gave a NotAScoreFunction, allowed .*ScoreFunction",
        "selection.function=user_code:NotAScoreFunction",
    ),
    setting(
        "score function",
        "function with arguments",
        r"selection\.function .*WantsArguments: .*TypeError.*strength",
        "selection.function=user_code:WantsArguments",
    ),
    setting(
        "score function",
        "function of a second network",
        r"il\.weights: missing, selection\.function .*needs it",
        "selection.function=user_code:WantsReference",
    ),
    setting(
        "score function",
        "function of passes without a forward",
        r"selection\.function .*got Needs\(forward=False\) with features, passes or a second",
        "selection.function=user_code:PassesWithoutForward",
    ),
    setting(
        "score function",
        "passes of a model without dropout",
        r"selection\.function bald: needs a model with dropout, got one of rhoselect\.models:mlp",
        "selection.function=bald",
    ),
    setting(
        "score function",
        "passes that do not repeat",
        r"selection\.function bald: got stochastic passes that do not repeat, allowed",
        "selection.function=bald",
        "model.factory=user_code:OwnRandom",
        "model.args={}",
    ),
    setting(
        "score function",
        "features of a model without a linear head",
        r"model\.factory: got logits that are not the output of a torch\.nn\.Linear, allowed",
        "selection.function=gradient_norm",
        "model.factory=user_code:Scaled",
        "model.args={}",
    ),
    setting(
        "score function",
        "function of one score",
        r"selection\.function user_code:OneScore: for 2 points gives scores of shape \[\], allowed",
        "selection.function=user_code:OneScore",
    ),
    *(
        setting("forms of a forward", name, pattern, *settings)
        for name, pattern, *settings in (
            (
                "a graph on a CPU",
                r"scorer\.graph: got true and scores from the CPU, allowed on GPUs alone",
                "scorer.graph=true",
            ),
            (
                "fp8 on a CPU",
                r"scorer\.quantize: got 'fp8' and scores from the CPU, allowed on GPUs of cap",
                "scorer.quantize=fp8",
            ),
            (
                "int8 of no linear layer",
                r"scorer\.quantize: got 'int8' and a model without a torch\.nn\.Linear whose sizes",
                "scorer.quantize=int8",
                "model={factory='rhoselect.models:small_cnn', args={}}",
            ),
            (
                "int4",
                r"scorer\.quantize: got 'int4'; input should be 'none', 'int8' or 'fp8'",
                "scorer.quantize=int4",
            ),
            (
                "TF32 without a GPU",
                r"compute\.tf32: got 'all' and no GPU, allowed with trainer\.device or",
                "compute.tf32=all",
            ),
            (
                "few channels by pixel on a CPU",
                r"trainer\.channels_last: got true on a CPU with blocks\.\S+, a convolution 1x1 of",
                "trainer.channels_last=true",
                "model={factory='rhoselect.models:resnet18_small', args={width = 4}}",
            ),
            (
                "parts of a model by pixel",
                r"trainer\.channels_last: got true with trainer\.parallel = 'fsdp', allowed false",
                "trainer.channels_last=true",
                "trainer.parallel=fsdp",
            ),
        )
    ),
    setting(
        "model",
        "model by a plain name",
        r"model\.factory: got 'mlp', allowed 'mod",
        "model.factory=mlp",
    ),
    setting(
        "model",
        "model of no module",
        r"model\.factory: .*'no_such_module' cannot be imported",
        "model.factory=no_such_module:f",
    ),
    setting(
        "model",
        "no such model",
        r"model\.factory: .*'user_code' has no 'f'",
        "model.factory=user_code:f",
    ),
    setting(
        "model",
        "model not callable",
        r"model\.factory: .*type int, allowed a callable",
        "model.factory=user_code:NOT_CALLABLE",
    ),
    setting(
        "model", "model argument", r"model\.factory .*TypeError: .*'depht'", "model.args.depht=1"
    ),
    setting(
        "model",
        "model that raises",
        r"model\.factory user_code:raising: failed with RuntimeError: no weights found",
        "model.factory=user_code:raising",
        "model.args={}",
    ),
    setting(
        "model",
        "not a module",
        r"model\.factory .*returned a function, allowed a torch\.nn\.Module",
        "model.factory=user_code:not_a_module",
        "model.args={}",
    ),
    setting(
        "model",
        "TorchScript module",
        r"model\.factory .*returned a TorchScript module, allowed the torch\.nn\.Module",
        "model.factory=user_code:scripted",
        "model.args={}",
    ),
    setting(
        "model",
        "nothing to train",
        r"model\.factory .*no parameters",
        "model.factory=user_code:NothingToTrain",
        "model.args={}",
    ),
    setting(
        "adapters",
        "adapters that do not learn",
        r"model\.factory .*no parameters to train, .*from_pretrained gives one with is_trainable",
        "model.factory=adapted:all_frozen",
        "model.args={}",
    ),
    setting(
        "adapters",
        "adapters without a base",
        r"snapshots\.only: got 'trainable', but all parameters of model\.factory \S+ learn;",
        "snapshots.only=trainable",
    ),
    setting(
        "model's output",
        "wrong K",
        r"model\.factory .*returns \[2, 5\], allowed float logits \[2, 4\]",
        "model.factory=user_code:Linear",
        "model.args={extra = 1}",
    ),
    setting(
        "model's output",
        "tuple",
        r"model\.factory .*returns a tuple, allowed float logits \[2, 4\]",
        "model.factory=user_code:TupleOutput",
        "model.args={}",
    ),
    setting(
        "model's output",
        "one dimension",
        r"model\.factory .*returns \[2\], allowed float logits \[2, 4\]",
        "model.factory=user_code:OneDimension",
        "model.args={}",
    ),
    setting(
        "model's output",
        "integers",
        r"model\.factory .*returns torch\.int64, allowed float logits",
        "model.factory=user_code:Integers",
        "model.args={}",
    ),
    setting(
        "model's output",
        "forward that fails",
        r"model\.factory .*fails on inputs of shape \[2, 1, 16, 16\]: AssertionError",
        "model.factory=user_code:FailingForward",
        "model.args={}",
    ),
    setting(
        "model's output",
        "training step that fails",
        r"model\.factory .*fails in a training step of 8 points: KeyError: 'targets'",
        "model.factory=user_code:FailingStep",
        "model.args={}",
    ),
    *(
        setting("optimizer", name, pattern, *settings)
        for name, pattern, *settings in (
            (
                "unknown name",
                r"trainer\.optimizer\.name: got 'Sgd', allowed .*SGD.* or 'module:class'",
                "trainer.optimizer.name=Sgd",
            ),
            (
                "of no module",
                r"trainer\.optimizer\.name: .*'no_such_module' cannot be imported",
                "trainer.optimizer.name=no_such_module:SGD",
            ),
            (
                "no optimizer",
                r"trainer\.optimizer user_code:not_an_optimizer: gave a list, allowed a torch",
                "trainer.optimizer.name=user_code:not_an_optimizer",
            ),
            (
                "argument it does not take",
                r"trainer\.optimizer\.args: got betas, allowed for SGD: .*momentum",
                "trainer.optimizer={name = 'SGD', args = {betas = [0.9, 0.99]}}",
            ),
            (
                "argument it refuses",
                r"trainer\.optimizer SGD: .*Invalid momentum.*change its args",
                "trainer.optimizer={name = 'SGD', args = {momentum = -1.0}}",
            ),
            (
                "argument with a key of its own",
                r"trainer\.optimizer\.args: .*allowed are args but lr; set trainer\.lr",
                "trainer.optimizer.args.lr=0.1",
            ),
            (
                "argument that is a table",
                r"trainer\.optimizer\.args\.betas: .*allowed a boolean, .* or a list of them",
                "trainer.optimizer.args.betas.first=0.9",
            ),
            (
                "that needs a closure",
                r"trainer\.optimizer LBFGS: its step needs a closure, allowed .*AdamW",
                "trainer.optimizer.name=LBFGS",
            ),
            (
                "Muon for vectors",
                r"trainer\.optimizer Muon: .*2D parameters.*another optimizer by trainer\.groups",
                "trainer.optimizer.name=Muon",
            ),
            (
                "decay it does not know",
                r"trainer\.groups\.0\.optimizer Rprop: takes no weight decay, allowed weight_decay",
                "trainer.groups=[{optimizer = {name = 'Rprop'}, weight_decay = 0.1}]",
            ),
        )
    ),
    *(
        setting(
            "model's copy",
            name,
            r"model\.factory: its model cannot be copied .*; in place of .*weight_norm",
            "model={factory = 'user_code:Uncopied', args = {}}",
            f"trainer.ema={decay}",
        )
        for name, decay in (("for the count of FLOPs", 0.0), ("for the average of weights", 0.9))
    ),
    *(
        setting("proxy", name, pattern, f"scorer.proxy={factory}", *sets)
        for name, factory, pattern, *sets in (
            ("plain name", "mlp", r"scorer\.proxy: got 'mlp', allowed 'module:name'"),
            ("no module", "no_such_module:f", r"scorer\.proxy: .*'no_such_module' cannot be imp"),
            ("not there", "user_code:f", r"scorer\.proxy: got \S+ but 'user_code' has no 'f'"),
            (
                "argument",
                "user_code:Linear",
                r"scorer\.proxy user_code:Linear: .*TypeError: .*'depht'",
                "scorer.proxy_args.depht=1",
            ),
            (
                "type of an argument",
                "user_code:Linear",
                r"scorer\.proxy_args\.extra: got \[1\], allowed a boolean,",
                "scorer.proxy_args.extra=[1]",
            ),
            (
                "other classes",
                "user_code:Linear",
                r"scorer\.proxy user_code:Linear: .*returns \[2, 5\], allowed float logits",
                "scorer.proxy_args.extra=1",
            ),
            (
                "nothing scores",
                "user_code:Linear",
                r"scorer\.proxy: .* selection\.function = 'uniform', which scores nothing",
                "selection.function=uniform",
            ),
        )
    ),
    Case(
        "proxy",
        "a loop of one's own",
        lambda p: ["serve", p.config, "--run-dir", p.new, "--set", "scorer.proxy=user_code:Linear"],
        r"scorer\.proxy: got 'user_code:Linear', allowed '' for a loop of your own",
    ),
    setting(
        "micro-batches",
        "no power of two",
        r"trainer\.micro_batches: got 6; allowed are 1, 2, 4, 8",
        "trainer.micro_batches=6",
    ),
    setting(
        "micro-batches",
        "more than points",
        r"trainer\.micro_batches: got 16, allowed 1, 2, 4, 8, .*selection\.n_b = 8 points",
        "trainer.micro_batches=16",
    ),
    setting(
        "micro-batches",
        "of unequal sizes",
        r"trainer\.micro_batches: got 4, allowed 1, 2, .*selection\.n_b = 6 points",
        "selection.n_b=6",
        "trainer.micro_batches=4",
    ),
    *(
        setting("devices", name, pattern, "trainer.micro_batches=4", *sets)
        for name, pattern, *sets in (
            ("no power of two", r"trainer\.devices: got 3; allowed are 1, 2", "trainer.devices=3"),
            ("none", r"trainer\.devices: got 0; .*greater", "trainer.devices=0"),
            ("without work", r"devices: got 8, allowed 1, 2, 4, as each", "trainer.devices=8"),
            (
                "that would not overlap",
                r"--workers: got 0 with trainer\.devices = 2, selection\.lag = 1 .*allowed 1 or",
                "trainer.devices=2",
                "selection.lag=1",
            ),
            (
                "colocated with old weights",
                r"'colocated' with .*publish_every = 2, allowed lag 0 and publish_every 1",
                "cluster.mode=colocated",
                "trainer.publish_every=2",
            ),
            ("unknown sum", r"trainer\.reduce: got 'ddp'; .*'fast'", "trainer.reduce=ddp"),
            ("unknown mode", r"cluster\.mode: got 'both'; .*'split'", "cluster.mode=both"),
            (
                "split without scorers",
                r"cluster\.mode: got 'split' with trainer\.devices = 2 and --workers 0, allowed",
                "trainer.devices=2",
                "cluster.mode=split",
            ),
        )
    ),
    *(
        setting("fsdp", name, pattern, "trainer.parallel=fsdp", *sets)
        for name, pattern, *sets in (
            ("misspelt", r"trainer\.parallel: got 'ddp'; .*'fsdp'", "trainer.parallel=ddp"),
            ("with an average", r"trainer\.ema: got 0\.9 with .* allowed 0", "trainer.ema=0.9"),
            (
                "with Muon",
                r"optimizer: got 'Muon' with .*, allowed AdamW, .* each number by itself",
                "trainer.groups=[{dims = [2], optimizer = {name = 'Muon'}}]",
            ),
            (
                "with BatchNorm",
                r"trainer\.parallel: got 'fsdp' and a model with BatchNorm, allowed models without",
                "model={factory = 'user_code:Dropped', args = {}}",
            ),
            (
                "of no block",
                r"trainer\.blocks: got 'layer\.\*', which matches no module, .*; the model has: ",
                "trainer.blocks=layer.*",
            ),
        )
    ),
    setting(
        "micro-batches",
        "of one point with BatchNorm",
        r"model\.factory .*fails in a training step of 8 points in 8 parts: .*more than 1 value",
        "trainer.micro_batches=8",
        "model={factory = 'user_code:Dropped', args = {}}",
    ),
    setting(
        "state of an optimizer",
        "that is not stored",
        r"trainer\.optimizer: Forgetful: takes another step after its state_dict\(\) was loaded",
        "trainer.optimizer={name = 'user_code:Forgetful', args = {every = 1}}",
    ),
    setting(
        "state of an optimizer",
        "that a checkpoint cannot hold",
        r"trainer\.optimizer OddState: its state_dict\(\) has at random: a Generator, allowed",
        "trainer.optimizer={name = 'user_code:OddState'}",
    ),
    *(
        setting("parameter groups", name, pattern, *settings)
        for name, pattern, *settings in (
            (
                "that match nothing",
                r"trainer\.groups\.0\.pattern: got 'head\*', which matches no parameter, allowed",
                "trainer.groups=[{pattern = 'head*'}]",
            ),
            (
                "that match no matrix",
                r"groups\.0\.pattern: got '\*\.bias', which matches no parameter of 2 dimensions",
                "trainer.groups=[{pattern = '*.bias', dims = [2]}]",
            ),
            (
                "negative decay",
                r"trainer\.groups\.0\.weight_decay: got -0\.1; .*greater than or equal to 0",
                "trainer.groups=[{weight_decay = -0.1}]",
            ),
            (
                "unknown key",
                r"trainer\.groups\.0\.lr: unknown key; allowed .*lr_factor",
                "trainer.groups=[{lr = 0.1}]",
            ),
            (
                "no list",
                r"trainer\.groups: got 'head'; .*list",
                "trainer.groups=head",
            ),
        )
    ),
    setting(
        "torch data set",
        "no data-set module",
        r"data\.dataset: .*'no_such_module' cannot be imported",
        "data={dataset = 'no_such_module:f'}",
    ),
    setting(
        "torch data set",
        "no such name",
        r"data\.dataset: .*'user_code' has no 'f'",
        "data={dataset = 'user_code:f'}",
    ),
    setting(
        "torch data set",
        "not callable",
        r"data\.dataset: .*type int, allowed a callable",
        "data={dataset = 'user_code:NOT_CALLABLE'}",
    ),
    setting(
        "torch data set",
        "plain name",
        r"data\.dataset: got 'mnist', allowed 'module:name'",
        "data={dataset = 'mnist'}",
    ),
    setting(
        "torch data set",
        "factory that raises",
        r"data\.dataset 'user_code:raising': got \w+: RuntimeError: no weights found",
        "data={dataset = 'user_code:raising'}",
    ),
    setting(
        "torch data set",
        "not a data set",
        r"data\.dataset 'user_code:not_a_module': got .*no __len__",
        "data={dataset = 'user_code:not_a_module'}",
    ),
    setting(
        "torch data set",
        "split among the arguments",
        r"data\.args: got 'split'",
        "data={dataset = 'user_code:raising', args = {split = 'x'}}",
    ),
    setting(
        "queue URL",
        "queue's scheme",
        r"queue\.url: got scheme 'http', allowed .*red",
        "queue.url=http://host",
    ),
    setting("queue URL", "queue's host", r"queue\.url: .*malformed", "queue.url='redis://[host'"),
    setting("queue URL", "queue's port", r"queue\.url: .*malformed", "queue.url=redis://host:port"),
    setting(
        "queue URL",
        "password within",
        r"queue\.url: holds a password(?!.*s3cret).*password_file",
        "queue.url=redis://:s3cret@host",
    ),
    setting(
        "queue URL",
        "password unescaped",
        r"queue\.url: got a malformed URL(?!.*s3cret)",
        "queue.url=redis://:s3cret/@host",
    ),
    setting(
        "queue URL",
        "password as an option",
        r"queue\.url: got an unknown option(?!.*s3cret)",
        "queue.url=redis://host?password=s3cret",
    ),
    setting(
        "queue URL",
        "no verification",
        r"queue\.url: got an unknown option",
        "queue.url=rediss://host?ssl_cert_reqs=none",
    ),
    setting(
        "queue URL",
        "CA without TLS",
        r"queue\.tls_ca: got it with queue\.url of scheme 'redis'",
        "queue.url=redis://host",
        "queue.tls_ca=ca.pem",
    ),
    setting(
        "queue URL",
        "CA that is none",
        r"queue\.tls_ca /\S+/no/ca\.pem: cannot be read as PEM",
        "queue.url=rediss://host",
        "queue.tls_ca=no/ca.pem",
    ),
    Case(
        "queue secret",
        "empty password file",
        lambda p: p.train("queue.url=redis://host", f"queue.password_file={p.file('')}"),
        r"queue\.password_file .*: is empty",
    ),
    Case(
        "queue secret",
        "password file of bytes",
        lambda p: p.train(
            "queue.url=redis://host", f"queue.password_file={p.file(bytes([255, 254]))}"
        ),
        r"queue\.password_file .*: cannot be read",
    ),
    setting(
        "queue secret",
        "password file that is a folder",
        r"queue\.password_file /: cannot be read",
        "queue.url=redis://host",
        "queue.password_file=/",
    ),
    setting(
        "queue secret",
        "certificate without a key",
        r"queue\.tls_cert: got it or queue\.tls_key alone",
        "queue.url=rediss://host",
        "queue.tls_cert=c.pem",
    ),
    setting(
        "queue secret",
        "secret in a data URI",
        r"data\.path: got a URI with the option 'secret_key'(?!.*hunter2)",
        "data.path='s3://bucket/x?secret_key=hunter2'",
    ),
    setting(
        "queue secret",
        "password in a data URI",
        r"data\.path: got a URI with a user and password(?!.*hunter2)",
        "data.path=s3://me:hunter2@bucket/x",
    ),
    setting(
        "queue secret",
        "no password file",
        r"queue\.password_file /\S+/no/password: cannot be read",
        "queue.url=redis://host",
        "queue.password_file=no/password",
    ),
    setting(
        "data URI",
        "no such store",
        r"data\.path: got 'foo://bucket/x', allowed a folder or a URI",
        "data.path=foo://bucket/x",
    ),
    setting(
        "data URI",
        "option of no store",
        r"data\.path: .*the option 'bogus', allowed region",
        "data.path=s3://bucket/x?bogus=1",
    ),
    setting(
        "data URI",
        "no bucket",
        r"data\.path: got 's3://' without a bucket|without a bucket",
        "data.path=s3://",
    ),
    setting(
        "table", "IL table not named", r"il\.table: missing, .*'reducible_loss' needs it", "il={}"
    ),
    setting(
        "table",
        "IL table not there",
        r"il\.table /\S+/no/il\.parquet: no such file; if it moved, say where it is",
        "il.table=no/il.parquet",
    ),
    setting(
        "table",
        "core-set not named",
        r"svp\.table: missing, selection\.function 'svp' needs it",
        "selection.function=svp",
    ),
    setting(
        "table",
        "core-set not there",
        r"svp\.table /\S+/no\.such: no such file; .*make it with",
        "selection.function=svp",
        "svp.table=no.such",
    ),
    setting(
        "table",
        "no data there",
        r"data set /\S+/no/where: no such folder; if it moved, say where it is",
        "data.path=no/where",
    ),
]
