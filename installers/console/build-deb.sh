#!/usr/bin/env bash
# The console as one folder and as a .deb: installers/console/build-deb.sh [PYTHON] [OUT]
# PYTHON has the console's libraries and PyInstaller. The same inputs give the same bytes.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
python=${1:-$root/.venv/bin/python}
out=${2:-$root/dist}
version=$("$python" - "$root/pyproject.toml" <<'PY'
import sys, tomllib
print(tomllib.load(open(sys.argv[1], "rb"))["project"]["version"])
PY
)
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$root" log -1 --format=%ct)}
export PYTHONHASHSEED=0
arch=$(dpkg --print-architecture)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"

(cd "$root" && "$python" -m PyInstaller --noconfirm --log-level WARN \
  --distpath "$work/dist" --workpath "$work/build" "$here/console.spec")

deb=$work/deb
install -d "$deb/DEBIAN" "$deb/opt" "$deb/usr/bin" "$deb/usr/share/applications" \
  "$deb/usr/share/icons/hicolor/scalable/apps" "$deb/usr/share/metainfo" \
  "$deb/usr/share/doc/trefoil-console"
cp -r "$work/dist/trefoil-console" "$deb/opt/trefoil-console"
ln -s /opt/trefoil-console/trefoil-console "$deb/usr/bin/trefoil-console"
install -m644 "$here/trefoil-console.desktop" "$deb/usr/share/applications/"
install -m644 "$here/trefoil-console.svg" "$deb/usr/share/icons/hicolor/scalable/apps/"
install -m644 "$here/org.trefoil.console.metainfo.xml" "$deb/usr/share/metainfo/"
cat "$here/NOTICES.txt" "$root/LICENSE" > "$deb/usr/share/doc/trefoil-console/copyright"

# Tools for tests and pictures are no dependency of the program.
depends=$(grep -vE '^(xvfb|xauth|xdotool)$' "$here/apt-packages.txt" |
  sed 's/^libglib2.0-0$/libglib2.0-0 | libglib2.0-0t64/' | paste -sd, | sed 's/,/, /g')
size=$(du -sk "$deb" | cut -f1)
cat > "$deb/DEBIAN/control" <<EOF
Package: trefoil-console
Version: $version
Architecture: $arch
Maintainer: The Trefoil authors <trefoil@localhost>
Installed-Size: $size
Section: devel
Priority: optional
Depends: libc6 (>= 2.34), $depends
Description: console of the Trefoil model server
 What is wrong, on which server, since when: latency, drift, version skew,
 predictions, quality and alerts on one time axis, from its own cache when
 every server is gone.
EOF
find "$deb" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
name=$out/trefoil-console_${version}_$arch.deb
dpkg-deb --root-owner-group -Zxz -z${XZ_LEVEL:-6} --build "$deb" "$name" > /dev/null
rm -rf "$out/trefoil-console" && cp -r "$work/dist/trefoil-console" "$out/"
sha256sum "$name"
