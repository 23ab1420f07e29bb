# Appended to ~/.bashrc of every machine of the cluster.
export PATH="$HOME/rhoselect-env/bin:$PATH"
export RAY_AUTH_MODE=token       # refuse to start, or to be used, without the token
export RAY_worker_niceness=0     # Ray would run actors behind everything else
export RAY_USAGE_STATS_ENABLED=0 # Ray would send usage reports
if [ -r "$HOME/.rhoselect/queue-password" ]; then # the head
    RHOSELECT_QUEUE_PASSWORD="$(cat "$HOME/.rhoselect/queue-password")"
    export RHOSELECT_QUEUE_PASSWORD
fi
