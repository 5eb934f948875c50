#!/bin/sh
# What the stack needs besides Python packages where it runs without containers: Debian's redis-server.
set -eu

if command -v redis-server >/dev/null; then
    exit 0
fi
if [ "$(id -u)" -eq 0 ]; then
    as_root=""
else
    as_root="sudo -n"
fi
if command -v apt-get >/dev/null && $as_root true 2>/dev/null; then
    echo "installing redis-server, the queue of the stack"
    if $as_root apt-get update -qq && $as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -qq --yes --no-install-recommends redis-server >/dev/null; then
        exit 0
    fi
fi
echo "The stack needs a redis-server on the PATH, and this script could not install Debian's:" >&2
echo "apt-get is missing, failed, or needs a password. Install it by hand: sudo apt-get install redis-server" >&2
exit 1
