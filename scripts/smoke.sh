#!/usr/bin/env bash
# The package alone on every Python that it allows, and on the oldest torch that it allows: it is
# imported, trains 20 steps, and serves a loop (scripts/smoke.py). Environments stay in .cache/smoke.
# A Python that is not here, and a torch that its index does not have, are named and skipped.
# PYTHONS="FILE FILE" names interpreters that are not on the PATH.
set -euo pipefail
cd "$(dirname "$0")/.."
read -ra pythons <<<"${PYTHONS:-python3.11 python3.12 python3.13 python3.14}"
index=(${TORCH_INDEX:+--index-url "$TORCH_INDEX"})
oldest="$(sed -n 's/^ *"torch>=\([0-9.]*\)".*/torch==\1.*/p' pyproject.toml)"
here="$(grep '^torch==' constraints.txt)"

# smoke PYTHON TORCH
smoke() {
    local python="$1" torch="$2" version dir
    if ! version="$("$python" -c 'import platform; print(platform.python_version())' 2>/dev/null)"; then
        echo "smoke: $python, $torch: skipped, there is no $python here"
        return
    fi
    dir=".cache/smoke/$version-${torch#torch==}"
    [ -x "$dir/bin/python" ] || scripts/venv.sh "$python" "$dir"
    local pip=("$dir/bin/python" -m pip --disable-pip-version-check install --quiet)
    if ! "${pip[@]}" "${index[@]}" "$torch" || ! "${pip[@]}" "$torch" ".[all]"; then
        echo "smoke: $python, $torch: skipped, pip cannot install it here"
        return
    fi
    "$dir/bin/python" scripts/smoke.py
    echo "smoke: $python, $torch: passed"
}

for python in "${pythons[@]}"; do
    smoke "$python" "$here"
done
smoke "${pythons[0]}" "$oldest"
