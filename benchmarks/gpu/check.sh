#!/usr/bin/env bash
# The check of one GPU, in nine stages with a time limit each: docs/results/gpu.md.
#
#   bash check.sh [--device cuda|cpu] [--quick] [--stages 0,1,2] --out DIR
#
# DIR gets a JSON file a stage, all.json (every stage and the tail of the log) and logs.tar.xz. In a
# bundle (make gpu-bundle) this installs what lies beside it into a folder of its own first: nothing
# needs a network, root or the repository. PYTHON names the interpreter that has torch.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
python="${PYTHON:-python3}"
if [ -d "$here/wheels" ]; then
    site="$(mktemp -d "${TMPDIR:-/tmp}/rho-check-XXXXXX")"
    trap 'rm -rf "$site"' EXIT
    started=$SECONDS
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir \
        --disable-pip-version-check --target "$site" "$here"/wheels/*.whl
    for archive in "$here"/*.tar.xz; do
        "$python" -m tarfile --filter data -e "$archive" "$site"
    done
    # Ray gives its agent 15 s to start, and modules that are compiled on the way may take longer.
    "$python" -m compileall -q -j 0 "$site" >/dev/null 2>&1 || true
    export PYTHONPATH="$site" RHO_CHECK_DATA="$site/check-data" RHO_CHECK_INSTALL_S=$((SECONDS - started))
elif [ -x "$here/../../.venv/bin/python" ] && [ -z "${PYTHON:-}" ]; then
    python="$here/../../.venv/bin/python"
fi
"$python" "$here/run.py" "$@"
