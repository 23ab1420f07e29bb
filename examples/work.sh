#!/usr/bin/env bash
# One of the works in this folder, whole: data and irreducible losses, a run of each arm, the same
# run with two workers, and docs/results/NAME.md, .json and .png. A finished part is not done again, a
# run that was interrupted goes on.
#   bash examples/work.sh debian-sections|gpt-debian|notmnist
set -euo pipefail
cd "$(dirname "$0")/.."
name=$1 runs=runs/$1 results=docs/results/$1
make "data-$name"

train() { # ARM WORKERS [OPTION]...
  local folder=$runs/$1 workers=$2
  shift 2
  [ -e "$folder/summary.json" ] && return
  if [ -e "$folder/config.toml" ]; then
    .venv/bin/rhoctl train --resume --run-dir "$folder" --workers "$workers"
    return
  fi
  .venv/bin/rhoctl train "examples/$name.toml" --workers "$workers" --run-dir "$folder" "$@"
}

arms=(uniform rho)
train uniform 0 --set selection.function=uniform
train rho 0
train rho-2-workers 2
if [ "$name" = gpt-debian ]; then
  arms+=(tokens)
  train tokens 0 --set selection.function=uniform --set selection.tokens=0.6
fi
.venv/bin/python - "$runs" <<'END'
import json, sys

found = [json.load(open(f"{sys.argv[1]}/{arm}/summary.json")) for arm in ("rho", "rho-2-workers")]
for key in ("selected_sha256", "weights_sha256"):
    assert found[0][key] == found[1][key], f"{key} differs between 0 and 2 workers"
END
{
  printf '# %s\n\nOne seed of each arm, rates decayed to 0, on two cores: it shows that the machine carries the work,\n' "$name"
  printf 'not whether it pays. Two workers gave the same points and weights as none. Seconds: other work may have\nrun beside it.\n\n'
  printf '`bash examples/work.sh %s`\n\n![curves](%s.png)\n\n```\n' "$name" "$name"
  COLUMNS=120 .venv/bin/rhoctl report "${arms[@]/#/$runs/}" --out "$results.png" --json "$results.json"
  printf '```\n'
} >"$results.md"
cat "$results.md"
