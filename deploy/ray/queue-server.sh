#!/usr/bin/env bash
# Run the queue's Redis-protocol server on this machine, in the background, at port 6380 (6379 is
# Ray's). Its one user, rho, has a password and may touch nothing but the keys of runs. The password
# is ~/.rhoselect/queue-password, made here at first. Needs rhoselect on the PATH's python; uses the
# server that came with it. Safe to repeat: a server that runs is left alone.
set -euo pipefail
umask 077
folder="$HOME/.rhoselect"
mkdir -p "$folder"
cd "$folder"

if [ -s queue.pid ] && kill -0 "$(cat queue.pid)" 2>/dev/null; then
    exit 0
fi
if [ ! -s queue-password ]; then
    head -c 32 /dev/urandom | sha256sum | cut -d ' ' -f 1 >queue-password
fi
hash="$(tr -d '\n' <queue-password | sha256sum | cut -d ' ' -f 1)"
cat >queue.conf <<END
port 6380
bind * -::*
user default off
user rho on #$hash ~rho:* +@all -@dangerous +info
save ""
appendonly no
maxmemory-policy noeviction
daemonize yes
dir $folder
pidfile $folder/queue.pid
logfile $folder/queue.log
END
server="$(python -c 'from rhoselect.runtime.queue_server import find_server; print(find_server())')"
LC_ALL=C "$server" queue.conf
