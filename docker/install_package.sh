#!/bin/sh
# Installs a Debian package whose command is not on the PATH: docker/install_package.sh <package> <what for>.
# The package and the command have the same name.
set -eu
package="$1"
what_for="$2"

if command -v "$package" >/dev/null; then
    exit 0
fi
if [ "$(id -u)" -eq 0 ]; then
    as_root=""
else
    as_root="sudo -n"
fi
if command -v apt-get >/dev/null && $as_root true 2>/dev/null; then
    echo "installing $package, $what_for"
    if $as_root apt-get update -qq && $as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -qq --yes --no-install-recommends "$package" >/dev/null; then
        exit 0
    fi
fi
echo "$package is needed on the PATH, $what_for, and this script could not install Debian's:" >&2
echo "apt-get is missing, failed, or needs a password. Install it by hand: sudo apt-get install $package" >&2
exit 1
