#!/bin/sh
# The browser of the end-to-end tests: Debian's chromium, installed where it is missing.
set -eu

if command -v chromium >/dev/null; then
    exit 0
fi
if [ "$(id -u)" -eq 0 ]; then
    as_root=""
else
    as_root="sudo -n"
fi
if command -v apt-get >/dev/null && $as_root true 2>/dev/null; then
    echo "installing chromium, which the end-to-end tests drive"
    if $as_root apt-get update -qq && $as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -qq --yes --no-install-recommends chromium >/dev/null; then
        exit 0
    fi
fi
echo "The end-to-end tests need a chromium on the PATH, and this script could not install Debian's:" >&2
echo "apt-get is missing, failed, or needs a password. Install it by hand: sudo apt-get install chromium" >&2
exit 1
