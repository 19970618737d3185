#!/bin/sh
# setup_venv.sh PYTHON VENV TORCH: the environment with pizero and its simulator in it.
set -e
python=$1 venv=$2 torch=$3
cd "$(dirname "$0")/.."
if [ ! -x "$venv/bin/python" ]; then
    echo "making $venv with $("$python" --version)"
    if ! "$python" -m venv "$venv" >/dev/null 2>&1; then
        rm -rf "$venv"
        tools/apt_install.sh python3-venv
        "$python" -m venv "$venv"
    fi
fi
pip="$venv/bin/python -m pip --disable-pip-version-check"
$pip install --quiet --upgrade "pip>=25.1"
# torch first, so that the exact build named in the Makefile is taken and no other is pulled in by a dependency
if ! "$venv/bin/python" -c 'import torch' 2>/dev/null; then
    echo "installing $torch"
    $pip install --quiet "$torch"
fi
echo "installing pizero and Meta-World"
$pip install --quiet --editable ".[metaworld]"
