#!/bin/sh
# setup_simulators.sh VENV: SimplerEnv (ManiSkill3) and LIBERO, into an environment made by setup_venv.sh.
set -e
venv=$1
cd "$(dirname "$0")/.."
"$venv/bin/python" -c 'import sys; sys.exit(sys.version_info >= (3, 13))' || {
    echo "ManiSkill3 needs mplib 0.1.1, which exists for Python 3.11 and 3.12 only; remove $venv and set PYTHON=python3.12" >&2
    exit 2
}
pip="$venv/bin/python -m pip --disable-pip-version-check"
echo "installing ManiSkill3 and what LIBERO imports"
$pip install --quiet --editable ".[metaworld,simpler,libero,serve]"
# Their own lists of dependencies replace torch and mujoco by the newest (docs/install.md); what they import is in
# the extra "libero".
echo "installing LIBERO (1.8 GB on disk in all)"
$pip install --quiet --no-deps robosuite==1.4.0 hf-libero==0.1.4 bddl==1.0.1
