#!/bin/sh
# setup_rendering.sh VENV: installs what MuJoCo needs to render without a screen, if it cannot do so yet.
export MUJOCO_GL="${MUJOCO_GL:-egl}"
if "$1/bin/python" -c 'import mujoco; context = mujoco.GLContext(16, 16); context.make_current(); context.free()' >/dev/null 2>&1; then
    exit 0
fi
exec "$(dirname "$0")/apt_install.sh" libegl1 libgl1 libgl1-mesa-dri
