#!/usr/bin/env bash
# hosts.sh FOLDER COUNT: a small network of hosts on this machine, for tests.
#
# Every host has processes, network, name, /tmp/ray, /dev/shm and home of its own, and runs sshd;
# the files are otherwise this machine's. This process is the desk, at 10.77.0.1; the hosts are
# 10.77.0.2 and on. FOLDER/id opens them all. Prints "ready"; everything ends with this process.
# To be run as root, in namespaces of its own:
#   unshare --net --pid --mount --fork --mount-proc --kill-child tests/hosts.sh FOLDER COUNT
set -euo pipefail
folder="$1" count="$2"
sshd="$(command -v sshd || echo /usr/sbin/sshd)"

prepare() { # NAME: what is private in the calling process's namespaces
    mkdir -p /tmp/ray "$folder/$1"
    mount -t tmpfs tmpfs /tmp/ray
    mount -t tmpfs tmpfs /dev/shm
    sed "s|^root:.*|root:x:0:0:root:$folder/$1:/bin/bash|" /etc/passwd >"$folder/$1.passwd"
    mount --bind "$folder/$1.passwd" /etc/passwd
    hostname "$1"
    ip link set lo up
}

host() { # NUMBER
    prepare "host-$1"
    until ip link show eth0 >/dev/null 2>&1; do sleep 0.02; done
    ip addr add "10.77.0.$1/24" dev eth0
    ip link set eth0 up
    ip route add default via 10.77.0.1 # Ray's own address is the one that it would go out by
    exec "$sshd" -D -f "$folder/sshd_config"
}

if [ "${3:-}" ]; then
    host "$3"
fi
ssh-keygen -q -t ed25519 -N "" -f "$folder/id"
ssh-keygen -q -t ed25519 -N "" -f "$folder/host_key"
cat >"$folder/sshd_config" <<END
HostKey $folder/host_key
AuthorizedKeysFile $folder/id.pub
PermitRootLogin prohibit-password
PasswordAuthentication no
StrictModes no
PidFile none
END
mkdir -p /run/sshd
prepare desk
ip link add desk type bridge
ip addr add 10.77.0.1/24 dev desk
ip link set desk up
for number in $(seq 2 $((count + 1))); do
    unshare --net --pid --mount --uts --fork --mount-proc --kill-child \
        "$0" "$folder" "$count" "$number" &
    until [ "$(readlink /proc/$!/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.01; done
    ip link add "host-$number" master desk type veth peer name eth0 netns $!
    ip link set "host-$number" up
done
for number in $(seq 2 $((count + 1))); do
    until (exec 3<>"/dev/tcp/10.77.0.$number/22") 2>/dev/null; do sleep 0.05; done
done
echo ready
wait
