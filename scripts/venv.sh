#!/usr/bin/env bash
# venv.sh PYTHON DIR: make a virtual environment with pip in DIR, as far as possible without root.
set -euo pipefail
python="$1" dir="$2"
. "$(dirname "$0")/debian.sh"

need() {
    echo "venv: $1" >&2
    echo "venv: $2" >&2
    exit 1
}

command -v "$python" >/dev/null ||
    need "no $python here; Python 3.11 or newer is needed" \
        "install it, e.g.: sudo apt-get install python3 python3-venv"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    need "$python is $("$python" --version 2>&1); Python 3.11 or newer is needed" \
        "name another one, e.g.: make PYTHON=python3.11 (sudo apt-get install python3.11 python3.11-venv)"

rm -rf "$dir"
if "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    exec "$python" -m venv "$dir"
fi

# Debian keeps ensurepip in a package of its own. Without it: pip from elsewhere.
"$python" -m venv --without-pip "$dir" ||
    need "$python has no venv module" "install it, e.g.: sudo apt-get install python3-venv"
if "$python" -m pip --python "$dir/bin/python" install -q pip 2>/dev/null; then
    exit 0
fi
if has_apt; then
    echo "venv: $python has no ensurepip; taking pip from the Debian package python3-pip-whl" >&2
    wheels=.cache/pip-whl
    rm -rf "$wheels"
    if debian_fetch python3-pip-whl "$wheels" >&2; then
        for package in "$wheels"/python3-pip-whl*.deb; do
            dpkg-deb -x "$package" "$wheels"
        done
        wheel="$(find "$PWD/$wheels" -name 'pip-*.whl')"
        "$dir/bin/python" "$wheel/pip" install -q --no-index "$wheel" && rm -rf "$wheels" && exit 0
    fi
fi
rm -rf "$dir"
need "$python has no ensurepip, so the environment would be without pip" \
    "install it, e.g.: sudo apt-get install python3-venv"
