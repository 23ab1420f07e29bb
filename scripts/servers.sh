#!/usr/bin/env bash
# Print the path of a redis-server for the tests (make passes it on as REDIS_SERVER).
# In order: REDIS_SERVER, the PATH, the Debian package unpacked below .cache/servers (no root).
# Prints nothing, and says on stderr what to install, when there is none.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/debian.sh

dir=.cache/servers
server="$PWD/$dir/redis-server"

how_to() {
    local command="see https://redis.io/docs/latest/operate/oss_and_stack/install"
    if command -v apt-get >/dev/null; then command="sudo apt-get install redis-server"
    elif command -v dnf >/dev/null; then command="sudo dnf install redis"
    elif command -v pacman >/dev/null; then command="sudo pacman -S redis"
    elif command -v apk >/dev/null; then command="sudo apk add redis"
    elif command -v brew >/dev/null; then command="brew install redis"
    fi
    echo "servers: $1; the tests that need a Redis server cannot run. Install one: $command" >&2
    exit 0
}

if [ -n "${REDIS_SERVER:-}" ]; then
    command -v "$REDIS_SERVER" || how_to "REDIS_SERVER=$REDIS_SERVER is not a program"
    exit 0
fi
command -v redis-server && exit 0
if [ -x "$server" ] && "$server" --version >/dev/null 2>&1; then
    echo "$server"
    exit 0
fi
has_apt || how_to "no redis-server on the PATH"

echo "servers: no redis-server on the PATH; unpacking the Debian package into $dir" >&2
rm -rf "$dir"
debian_fetch redis-server redis-tools "$dir" >&2 || how_to "the package could not be downloaded"
for package in "$dir"/*.deb; do
    dpkg-deb -x "$package" "$dir/root" && rm "$package"
done
cat >"$server" <<'END'
#!/bin/sh
root="$(dirname "$0")/root"
libraries="$(find "$root" -name '*.so.*' -printf '%h\n' | sort -u | paste -s -d : -)"
LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" exec "$root/usr/bin/redis-server" "$@"
END
chmod +x "$server"
"$server" --version >&2 || how_to "the unpacked server does not start"
echo "$server"
