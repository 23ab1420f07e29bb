#!/usr/bin/env bash
# The package alone on every Python that it allows, and on the oldest torch that it allows: it is
# imported, trains 20 steps, and serves a loop (scripts/smoke.py). Environments stay in .cache/smoke.
# A Python that is not here, and a torch that its index does not have, are named and skipped.
set -euo pipefail
cd "$(dirname "$0")/.."
index=(${TORCH_INDEX:+--index-url "$TORCH_INDEX"})
oldest="$(sed -n 's/^ *"torch>=\([0-9.]*\)".*/torch==\1.*/p' pyproject.toml)"
here="$(grep '^torch==' constraints.txt)"

# smoke PYTHON TORCH
smoke() {
    local python="$1" torch="$2" dir
    dir=".cache/smoke/$python-${torch//[!0-9.]/}"
    if ! "$python" -c '' 2>/dev/null; then
        echo "smoke: $python, $torch: skipped, there is no $python here"
        return
    fi
    [ -x "$dir/bin/python" ] || scripts/venv.sh "$python" "$dir"
    local pip=("$dir/bin/python" -m pip --disable-pip-version-check install --quiet)
    if ! "${pip[@]}" "${index[@]}" "$torch" || ! "${pip[@]}" "$torch" ".[all]"; then
        echo "smoke: $python, $torch: skipped, pip cannot install it here"
        return
    fi
    "$dir/bin/python" scripts/smoke.py
    echo "smoke: $python, $torch: passed"
}

for minor in 11 12 13 14; do
    smoke "python3.$minor" "$here"
done
smoke python3.11 "$oldest"
