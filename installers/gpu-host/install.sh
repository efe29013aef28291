#!/usr/bin/env bash
# The server as a system service of this Debian 12: sudo installers/gpu-host/install.sh
# Each run that changes anything is a release of its own under /opt/trefoil/releases; `current` is
# switched when the release is whole and its bundle verified, and a running server keeps the one it
# started from. `install.sh --files-only ROOT` places unit and settings below ROOT and no more.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
source=$(cd "$here/../.." && pwd)
python=${PYTHON:-python3.11}

place() {
  install -D -m 644 "$here/trefoil-server.service" "$1/etc/systemd/system/trefoil-server.service"
  install -D -m 644 "$here/trefoil.sysusers" "$1/etc/sysusers.d/trefoil.conf"
  install -D -m 644 "$here/trefoil.tmpfiles" "$1/etc/tmpfiles.d/trefoil.conf"
  # Settings that are there already are kept.
  [ -e "$1/etc/trefoil/server.env" ] ||
    install -D -m 644 "$here/server.env" "$1/etc/trefoil/server.env"
}

release() {
  local id home
  "$python" -m venv "$work/pip"
  pip() { "$work/pip/bin/pip" --disable-pip-version-check "$@"; }
  pip wheel -q --no-deps -w "$work" "$source/clients/python" "$source"
  id=$(cat "$work"/*.whl "$here/requirements.txt" | sha256sum | cut -c1-12)
  home=/opt/trefoil/releases/$id
  if [ ! -e "$home/verified" ]; then
    rm -rf "$home"
    "$python" -m venv --without-pip "$home"
    pip --python "$home/bin/python" install -q -r "$here/requirements.txt"
    pip --python "$home/bin/python" install -q --no-deps "$work"/*.whl
    pip --python "$home/bin/python" check
    "$home/bin/pipelines" verify \
      "$("$home/bin/python" -c 'from server.config import EMBEDDED_BUNDLE; print(EMBEDDED_BUNDLE)')"
    chmod -R a+rX,go-w "$home"
    touch "$home/verified"
  fi
  # rename(2) replaces a link in one step; ln alone removes the old one first.
  ln -sfn "releases/$id" /opt/trefoil/.next
  mv -T /opt/trefoil/.next /opt/trefoil/current
  echo "/opt/trefoil/current is $id"
}

if [ "${1:-}" = --files-only ]; then
  place "${2:?a directory to place the files below}"
  exit
fi
umask 022
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p /opt/trefoil/releases
(cd / && release)
place ""
systemd-sysusers trefoil.conf
systemd-tmpfiles --create trefoil.conf
if [ -d /run/systemd/system ]; then
  systemctl daemon-reload
  echo "Now: systemctl enable --now trefoil-server; after an upgrade: systemctl restart trefoil-server"
fi
