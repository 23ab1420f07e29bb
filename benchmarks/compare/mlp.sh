#!/usr/bin/env bash
# Equal budgets, short and long: an MLP on Fashion-MNIST with 0, 10 and 40% wrong labels.
#   bash benchmarks/compare/mlp.sh [OPTION OF rhoctl compare]...
# Called again, it goes on where it was interrupted. RHOCTL is the command (default rhoctl).
set -euo pipefail
cd "$(dirname "$0")/../.."
rhoctl=${RHOCTL:-rhoctl}
for noise in 0 10 40; do
  data=data/compare/noise$noise
  [ -e "$data" ] || "$rhoctl" data import fashion-mnist auto "$data" \
    --label-noise "$(printf '0.%02d' "$noise")" --holdout 0.5
  # A small CNN: a better model than the target gives better irreducible losses.
  [ -e "$data-il.parquet" ] || "$rhoctl" il fit --data "$data" --out "$data-il.parquet" \
    --model rhoselect.models:small_cnn
done
options=(--steps 1000,3000 --rates 0.3,1,3,10 --cleaned 0.1,0.4 --out runs/compare/mlp "$@")
# A process uses one core. Two work side by side, then one makes the table of all.
if [[ " $* " != *" --dry-run "* ]]; then
  mkdir -p runs/compare/mlp
  printf '%s\n' 0 10 40 | xargs -P 2 -I{} bash -c \
    '"$0" compare "benchmarks/compare/mlp_noise$1.toml" "${@:2}" >"runs/compare/mlp/noise$1.log" 2>&1' \
    "$rhoctl" {} "${options[@]}"
fi
exec "$rhoctl" compare benchmarks/compare/mlp_noise{0,10,40}.toml "${options[@]}"
