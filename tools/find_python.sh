#!/bin/sh
# Prints the first Python >= 3.11 on the PATH.
for python in python3 python3.13 python3.12 python3.11 python3.14; do
    if command -v "$python" >/dev/null && "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        echo "$python"
        exit 0
    fi
done
echo "pizero needs Python 3.11 or newer; none is on the PATH. On Debian or Ubuntu: sudo apt-get install python3 python3-venv" >&2
exit 2
