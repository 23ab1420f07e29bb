#!/usr/bin/env bash
# Print the path of a program that tests use: scripts/servers.sh [redis-server|prometheus|chromium]
# (make passes them on as REDIS_SERVER, PROMETHEUS and CHROMIUM; promtool is beside prometheus).
# In order: that variable, the PATH, the Debian package unpacked below .cache/servers (no root).
# Prints nothing, and says on stderr what to install, when there is none.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/debian.sh

program="${1:-redis-server}"
case "$program" in
redis-server)
    packages=(redis-server redis-tools) others=redis given="${REDIS_SERVER:-}" programs=(redis-server)
    site=https://redis.io/docs/latest/operate/oss_and_stack/install
    ;;
prometheus)
    packages=(prometheus) others=prometheus given="${PROMETHEUS:-}" programs=(prometheus promtool)
    site=https://prometheus.io/download
    ;;
chromium)
    # The shell has no window and is a third of the browser's size; it answers to the same options.
    packages=(chromium-headless-shell) others=chromium given="${CHROMIUM:-}" programs=(chromium)
    site=https://www.chromium.org/getting-involved/download-chromium
    ;;
*)
    echo "servers: got $program; allowed redis-server, prometheus or chromium" >&2
    exit 2
    ;;
esac
[ "$program" = chromium ] && also=(chromium-browser google-chrome) || also=()
dir=.cache/servers
server="$PWD/$dir/$program"

how_to() {
    local command="see $site"
    if command -v apt-get >/dev/null; then command="sudo apt-get install ${packages[0]}"
    elif command -v dnf >/dev/null; then command="sudo dnf install $others"
    elif command -v pacman >/dev/null; then command="sudo pacman -S $others"
    elif command -v apk >/dev/null; then command="sudo apk add $others"
    elif command -v brew >/dev/null; then command="brew install $others"
    fi
    echo "servers: $1; the tests that need $program cannot run. Install it: $command" >&2
    exit 0
}

if [ -n "$given" ]; then
    command -v "$given" || how_to "$given is not a program"
    exit 0
fi
for name in "$program" "${also[@]}"; do
    command -v "$name" && exit 0
done
if [ -x "$server" ] && "$server" --version >/dev/null 2>&1; then
    echo "$server"
    exit 0
fi
has_apt || how_to "no $program on the PATH"

echo "servers: no $program on the PATH; unpacking the Debian package into $dir" >&2
mkdir -p "$dir"
debian_fetch "${packages[@]}" "$dir/fetched" >&2 || how_to "the package could not be downloaded"
for package in "$dir"/fetched/*.deb; do
    dpkg-deb -x "$package" "$dir/root" && rm "$package"
done
rmdir "$dir/fetched"
for each in "${programs[@]}"; do
    cat >"$dir/$each" <<'END'
#!/bin/sh
root="$(dirname "$0")/root"
libraries="$(find "$root" -name '*.so*' -printf '%h\n' | sort -u | paste -s -d : -)"
export LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
program="$(basename "$0")"
[ "$program" != chromium ] || program=../lib/chromium/chromium-headless-shell
exec "$root/usr/bin/$program" "$@"
END
    chmod +x "$dir/$each"
done
"$server" --version >&2 || how_to "the unpacked $program does not start"
echo "$server"
