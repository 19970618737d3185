#!/bin/sh
# Installs Debian packages where we may, and otherwise says the one command that does.
if ! command -v apt-get >/dev/null; then
    echo "please install with your system's package manager: $*" >&2
    exit 2
fi
if [ "$(id -u)" = 0 ]; then
    as_root=""
elif command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
    as_root="sudo"
else
    echo "please run once: sudo apt-get update && sudo apt-get install -y $*" >&2
    exit 2
fi
echo "installing $* with apt-get"
{ $as_root apt-get update -qq && DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends "$@"; } >/dev/null || {
    echo "apt-get could not install them; please run: sudo apt-get update && sudo apt-get install -y $*" >&2
    exit 2
}
