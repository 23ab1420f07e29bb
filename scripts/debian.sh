# Sourced by the scripts beside it: get Debian or Ubuntu packages without being root.
# apt works on a private state below .cache/apt; the system's own state is only read.

# debian_fetch PACKAGE... DIR: download into DIR those of the packages, and of what they depend on,
# that this system has not installed.
debian_fetch() {
    local packages=("${@:1:$#-1}") dir="${*: -1}" state options
    state="$(pwd)/.cache/apt"
    mkdir -p "$state/lists/partial" "$state/archives/partial" "$dir"
    options=(
        -qq -y
        -o Dir::State="$state" -o Dir::State::lists="$state/lists"
        -o Dir::State::status=/var/lib/dpkg/status
        -o Dir::State::extended_states="$state/extended_states"
        -o Dir::Cache="$state" -o Dir::Cache::archives="$state/archives"
        -o Dir::Log="$state" -o APT::Sandbox::User="$(id -un)" -o Debug::NoLocking=1
    )
    apt-get "${options[@]}" update &&
        apt-get "${options[@]}" --no-install-recommends --download-only install "${packages[@]}" &&
        cp "$state/archives"/*.deb "$dir/" && rm -rf "$state"
}

has_apt() {
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null
}
