#!/bin/sh
# The clock of the fault tests: Debian's faketime, installed where it is missing.
set -eu

if command -v faketime >/dev/null; then
    exit 0
fi
if [ "$(id -u)" -eq 0 ]; then
    as_root=""
else
    as_root="sudo -n"
fi
if command -v apt-get >/dev/null && $as_root true 2>/dev/null; then
    echo "installing faketime, with which tests set the clock of one process"
    if $as_root apt-get update -qq && $as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -qq --yes --no-install-recommends faketime >/dev/null; then
        exit 0
    fi
fi
echo "The fault tests need faketime, and this script could not install Debian's: apt-get is missing, failed," >&2
echo "or needs a password. Install it by hand: sudo apt-get install faketime" >&2
exit 1
