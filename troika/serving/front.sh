#!/bin/bash
# What the front's container runs: HAProxy, whose process is renewed from time to time. The old one says GOAWAY to gRPC
# clients, which HAProxy 2.6 cannot do by a connection's age, and ends when they have gone; so clients find new pods.
#
# SIGUSR1 ends it in peace, SIGTERM at once. It ends when HAProxy does.
set -u
seconds=${TROIKA_FRONT_RENEW_SECONDS:-$((240 + RANDOM % 60))} # not all pods at a time
ending=

haproxy -W -db -f "${TROIKA_FRONT_CONFIGURATION:-/etc/haproxy/haproxy.cfg}" &
master=$!
trap 'ending=USR1; kill -USR1 "$master"' USR1
trap 'ending=TERM; kill -TERM "$master"' TERM INT

while [[ -z $ending ]]; do
  sleep "$seconds" &
  sleeper=$!
  wait -n "$master" "$sleeper"
  if [[ -n $ending ]] || ! kill -0 "$master" 2>/dev/null; then
    break
  fi
  kill -USR2 "$master"
done
kill "$sleeper" 2>/dev/null
# HAProxy loses a signal that comes while it starts, so it is given once more.
[[ -z $ending ]] || { sleep 1; kill -"$ending" "$master"; } 2>/dev/null &
# A signal ends a wait, too.
while kill -0 "$master" 2>/dev/null; do
  wait "$master"
done
wait "$master"
