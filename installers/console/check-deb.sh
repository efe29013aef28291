#!/usr/bin/env bash
# Install the .deb in a bare Debian 12 and start it there: check-deb.sh FILE.deb [ROOT]
# Needs root and debootstrap. ROOT is made when absent and kept, for the next time.
set -euo pipefail
deb=$(readlink -f "$1")
root=${2:-$(mktemp -d)/bookworm}
mirror=${MIRROR:-$(grep -rhoE 'https?://[^ ]+' /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null |
  grep -v security | head -1)}
[ -d "$root/usr" ] || debootstrap --variant=minbase bookworm "$root" "$mirror"
cp "$deb" "$root/tmp/console.deb"
for file in /etc/apt/sources.list /etc/resolv.conf; do [ -f "$file" ] && cp "$file" "$root$file"; done
mountpoint -q "$root/proc" || mount -t proc proc "$root/proc"
trap 'umount "$root/proc"' EXIT
chroot "$root" apt-get update -qq
chroot "$root" apt-get install -y -qq --no-install-recommends /tmp/console.deb
chroot "$root" env QT_QPA_PLATFORM=offscreen HOME=/root timeout 60 \
  trefoil-console --offline --screenshot /tmp/console.png --size 1280x800
test -s "$root/tmp/console.png"
chroot "$root" apt-get remove -y -qq trefoil-console
test ! -e "$root/opt/trefoil-console"
echo "installed, started, painted and removed in $root"
