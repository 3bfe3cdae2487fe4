#!/bin/bash
# Converts images, and what each is after every one of its layers, to overlaybd and to turbo-oci with both kinds of metadata; mounts
# their disks by the kernel, lets e2fsck look at them, and compares the files with what umoci unpacks from the same layers. Every
# disk but an image's first is that of the layers below, read again from what was stored; at the end the whole image is converted at
# once and must give the same bytes. An image of odd layers is made and compared first. Needs root, loop devices, umoci, e2fsprogs, jq and attr.
#
# With OVERLAYBD_BIN, the directory of overlaybd's own tools, these read the images and lay layers over them: compare-overlaybd.sh.
#
#   scripts/compare-disks.sh LAZULI [OCI-LAYOUT:TAG...]
set -euo pipefail
export LC_ALL=C
[ $# -ge 1 ] || { sed -n '2,9p' "$0"; exit 2; }
[ "${COMPARE_INSIDE:-}" = 1 ] || exec env COMPARE_INSIDE=1 unshare --mount --propagation private timeout 3600 "$0" "$@"
lazuli=$(realpath "$1")
shift
scripts=$(dirname "$(realpath "$0")")
tmp=$(mktemp -d)
trap 'umount -q "$tmp/mnt" || true; rm -rf "$tmp"' EXIT
mkdir "$tmp/mnt"
# shellcheck source=scripts/list-files.sh
. "$scripts/list-files.sh"
# shellcheck source=scripts/prefix-images.sh
. "$scripts/prefix-images.sh"

# convert NAME SOURCE TARGET RECORD
convert() {
    local flags=(-f overlaybd)
    case $1 in
    turbo-ext4) flags=(-f turbo-oci --fs ext4) ;;
    turbo-erofs) flags=(-f turbo-oci) ;;
    esac
    "$lazuli" convert -q --record "$4" "${flags[@]}" "$2" "$3" >"$tmp/converted"
    grep -o 'sha256:[0-9a-f]*' "$tmp/converted" | head -n 1
}

# compare NAME SOURCE IMAGE: $tmp/want has what the files must be.
compare() {
    local device
    "$lazuli" check -q --source "$2" "$3" >/dev/null
    "$lazuli" mount --detach --mode disk --cache "" "$3" "$tmp/mnt"
    if [ "$1" != turbo-erofs ]; then
        device=$(findmnt -no SOURCE "$tmp/mnt")
        e2fsck -fn "$device" >"$tmp/fsck" 2>&1 || { cat "$tmp/fsck"; return 1; }
    fi
    list "$tmp/mnt" "$tmp/listed"
    grep -v '\./lost+found\>' "$tmp/listed" >"$tmp/got"
    "$lazuli" umount "$tmp/mnt"
    diff -u "$tmp/want" "$tmp/got" >"$tmp/diff" || { head -n 40 "$tmp/diff"; return 1; }
}

mkdir "$tmp/odd"
odd_image "$tmp/odd"
for image in "$tmp/odd:odd" "$@"; do
    rm -rf "$tmp/source" "$tmp/made" "$tmp/whole" "$tmp/record.db"*
    n=$(prefixes "$(realpath "${image%:*}")" "${image##*:}" "$tmp/source")
    for k in $(seq 0 $((n - 1))); do
        umoci unpack --keep-dirlinks --image "$tmp/source:$k" "$tmp/umoci" >/dev/null
        list "$tmp/umoci/rootfs" "$tmp/want"
        rm -rf "$tmp/umoci"
        for name in overlaybd turbo-ext4 turbo-erofs; do
            made=$(convert $name "oci:$tmp/source:$k" "oci:$tmp/made:$name-$k" "sqlite:$tmp/record.db")
            compare $name "oci:$tmp/source:$k" "oci:$tmp/made:$name-$k"
            if [ "$k" = $((n - 1)) ]; then
                whole=$(convert $name "oci:$tmp/source:$k" "oci:$tmp/whole:$name" none)
                [ "$made" = "$whole" ] || { echo "$image: $name is $whole at once, and $made layer by layer"; exit 1; }
            fi
        done
        echo "${image##*/}: layers 0..$k: $(grep -c . "$tmp/want") facts about the files equal umoci's on three disks"
    done
    if [ -n "${OVERLAYBD_BIN:-}" ]; then
        "$scripts/compare-overlaybd.sh" "$lazuli" "$tmp/source:$((n - 1))"
    fi
done
