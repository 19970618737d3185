#!/bin/sh
# fetch_lavapipe.sh FOLDER: puts lavapipe, Mesa's Vulkan driver in software, into FOLDER: two files of the package
# mesa-vulkan-drivers, which is downloaded (11 MB) but not installed. Needs no root: apt works in a folder of its own.
# The libraries it needs come with libgl1-mesa-dri. Debian 12's own Mesa, 22.3, is too old for SAPIEN; its backports
# have 25.0.
set -e
mkdir -p "$1"
folder=$(cd "$1" && pwd)
command -v apt-get >/dev/null || {
    echo "lavapipe comes from Debian's or Ubuntu's package mesa-vulkan-drivers, and apt-get is not here" >&2
    exit 2
}
apt=$(mktemp -d)
trap 'rm -rf "$apt"' EXIT
mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/found"
own="-o Dir::State::Lists=$apt/lists -o Dir::Cache=$apt/cache -o APT::Sandbox::User=$(id -un)"

# shellcheck disable=SC2086  # the options are words
try() {
    apt-get -qq $own "$@" >"$apt/log" 2>&1 || {
        echo "apt-get $1 failed, so lavapipe is not there: $(tail -n 1 "$apt/log")" >&2
        exit 2
    }
}

echo "downloading lavapipe (from the package mesa-vulkan-drivers) to $folder"
cd "$apt"
try update
. /etc/os-release
if [ "$ID-$VERSION_ID" = debian-12 ]; then
    # backports, from the mirror that this machine's bookworm comes from
    # shellcheck disable=SC2016,SC2086  # apt's variables, not the shell's
    mirror=$(apt-get $own indextargets --format '$(RELEASE) $(REPO_URI)' 'Created-By: Packages' |
        sed -n 's/^bookworm //p' | head -n 1)
    if [ -z "$mirror" ]; then
        echo "apt-get update reached no mirror of Debian 12, so lavapipe is not there" >&2
        exit 2
    fi
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror bookworm-backports main" >sources.list
    own="$own -o Dir::Etc::SourceList=$apt/sources.list -o Dir::Etc::SourceParts=/dev/null"
    try update
fi
try download mesa-vulkan-drivers
dpkg-deb --fsys-tarfile mesa-vulkan-drivers_*.deb | tar -x -C found --wildcards '*/libvulkan_lvp.so' '*/lvp_icd*.json'
find found -name libvulkan_lvp.so -exec mv {} found \;
find found -name 'lvp_icd*.json' \
    -exec sed 's#"library_path": *"[^"]*"#"library_path": "./libvulkan_lvp.so"#' {} \; >lvp_icd.json
# the library first: whoever finds the description finds the library
for file in found/libvulkan_lvp.so lvp_icd.json; do
    cp "$file" "$folder/.part"
    mv "$folder/.part" "$folder/$(basename "$file")"
done
