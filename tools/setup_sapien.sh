#!/bin/sh
# setup_sapien.sh VENV: brings what SimplerEnv needs from the system, if it is not there yet: the libraries of OpenCV,
# and a Vulkan driver that SAPIEN renders with. An NVIDIA driver has one; without it lavapipe does it in software.
here=$(cd "$(dirname "$0")" && pwd)
python="$1/bin/python"
lavapipe="$HOME/.cache/pizero/lavapipe/lvp_icd.json"
swiftshader=/usr/lib/chromium/vk_swiftshader_icd.json

renders() {
    "$python" -c 'import sapien; sapien.render.RenderSystem()' >/dev/null 2>&1
}

renders_with() {
    [ -f "$1" ] && VK_ICD_FILENAMES="$1" renders
}

if ! "$python" -c 'import cv2' >/dev/null 2>&1; then
    "$here/apt_install.sh" libglib2.0-0 libgl1 libvulkan1 || exit
fi
if [ -n "$VK_DRIVER_FILES$VK_ICD_FILENAMES" ] && renders; then
    exit 0
fi
unset VK_DRIVER_FILES VK_ICD_FILENAMES
if [ -e /dev/nvidiactl ]; then
    renders && exit 0
    "$here/apt_install.sh" libvulkan1 libegl1 libgl1 && renders && exit 0
    echo "this NVIDIA driver has no part for Vulkan (in a container: NVIDIA_DRIVER_CAPABILITIES=all);" \
        "set PIZERO_RENDER=cpu to let SimplerEnv render in software" >&2
fi
renders_with "$lavapipe" && exit 0
"$here/fetch_lavapipe.sh" "$(dirname "$lavapipe")" || {
    renders_with "$swiftshader" || exit 2
    echo "SimplerEnv will render with Chromium's SwiftShader, several times slower" >&2
    exit 0
}
renders_with "$lavapipe" || {
    missing=$(ldd "$(dirname "$lavapipe")/libvulkan_lvp.so" | grep 'not found' | tr -s '\n\t' ' ')
    echo "SAPIEN does not render with $lavapipe: $missing" \
        "Installing libgl1-mesa-dri brings its libraries; it needs Mesa 24.3 or newer (docs/install.md)" >&2
    exit 2
}
