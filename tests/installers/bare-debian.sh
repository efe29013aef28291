#!/usr/bin/env bash
# What the README promises, on a bare Debian 12: a root with python3.11, make, git and certificates
# and nothing else. In it the committed tree is cloned, `make serve` gets ready, `server predict`
# answers text, image and audio, and `make test` passes. Needs root, mmdebstrap and a Debian mirror.
#
#   tests/installers/bare-debian.sh [--keep] [--serve-only] [DIR]
#
# DIR (a temporary folder unless given) receives the root; with --keep it stays, and is used again if
# given again. Setting up reaches package registries; `make test` sees loopback alone. Where
# registries are reached in a way of your own, say so for the run; nothing of it enters the project:
#   BARE_COPY="/etc/pip.conf ..."   files that are put in the same places of the root
#   BARE_BIND="/srv/wheels ..."     folders that are shown there, read-only
#   BARE_MIRROR=...                 the mirror, as mmdebstrap takes it
# PIP_*, npm_* and *_proxy variables are passed on.
set -euo pipefail

PACKAGES='python3.11 make git ca-certificates'
HOME_INSIDE=/srv/trefoil  # of who works in the root; the clone is below it
READY_WITHIN_S=${READY_WITHIN_S:-600}
HERE=$(cd "$(dirname "$0")/../.." && pwd)

usage() { sed -n '2,/^set/{s/^# \{0,1\}//p}' "$0"; exit 2; }
say() { printf '%s  %s\n' "$(date +%H:%M:%S)" "$*"; }
since() { echo "$(($(date +%s) - $1)) s"; }
fail() { say "FAILED: $*"; exit 1; }

keep='' serve_only='' root=''
for word in "$@"; do
    case $word in
        --keep) keep=1 ;;
        --serve-only) serve_only=--serve-only ;;
        -*) usage ;;
        *) root=$(realpath -m "$word") ;;
    esac
done

if [ -z "${BARE_INSIDE:-}" ]; then
    for tool in python3 mmdebstrap chroot unshare ip git; do
        command -v "$tool" >/dev/null || { echo "bare-debian: $tool is not installed"; exit 2; }
    done
    [ "$(id -u)" = 0 ] || { echo "bare-debian: only root can make another root"; exit 2; }
    [ -n "$root" ] || root=$(mktemp -d --suffix=.bare-debian)
    # Mounts and processes of their own: both are gone when this ends, however it ends.
    code=0
    BARE_INSIDE=1 unshare --mount --pid --fork --kill-child --propagation private \
        bash "$0" $serve_only "$root" || code=$?
    if [ -n "$keep" ]; then say "kept $root"; else rm -rf --one-file-system "$root"; fi
    exit "$code"
fi

# In the root, with this machine's way to the registries but nothing else of its environment.
inside() {
    local variables=() name
    while read -r name; do variables+=("$name=${!name}"); done \
        < <(compgen -e | grep -E '^(PIP_|npm_)|_(proxy|PROXY)$' || true)
    chroot "$root" env -i HOME="$HOME_INSIDE" LANG=C.UTF-8 \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "${variables[@]}" \
        bash -c "cd $HOME_INSIDE; cd clone 2>/dev/null; $1"
}
# The same with no network but loopback.
offline() { unshare --net bash -c 'ip link set lo up && inside "$1"' - "$1"; }
export root HOME_INSIDE
export -f inside

debootstrapped() {
    local began
    began=$(date +%s)
    if [ -x "$root/usr/bin/apt-get" ]; then
        say "the root of an earlier run"
    else
        # shellcheck disable=SC2086  # one word a package
        (cd "$HERE" && python3 -m tests.installers.debian "$root" $PACKAGES)
        say "a root with $PACKAGES: $(since "$began"), $(du -shx "$root" | cut -f1)"
    fi
    mount -t proc proc "$root/proc"
    mount --rbind --make-rslave /dev "$root/dev"
    cp -L /etc/resolv.conf /etc/hosts "$root/etc/"
    local path
    for path in ${BARE_COPY:-}; do install -D -m 644 "$path" "$root$path"; done
    for path in ${BARE_BIND:-}; do
        mkdir -p "$root$path"
        mount --bind -o ro "$path" "$root$path"
    done
}

cloned() {
    rm -rf "$root$HOME_INSIDE/clone"
    mkdir -p "$root$HOME_INSIDE"
    git -C "$HERE" bundle create --quiet "$root$HOME_INSIDE/trefoil.bundle" HEAD
    inside 'git -c advice.detachedHead=false clone --quiet trefoil.bundle clone'
    say "$(inside 'python3.11 --version'), $(inside 'git log -1 --format="commit %h: %s"')"
}

# `make serve` as a person types it, then a second shell.
served() {
    local began code=0 serving log=$root$HOME_INSIDE/serve.log
    began=$(date +%s)
    inside 'make serve' >"$log" 2>&1 &
    serving=$!
    until inside '.venv/bin/server probe' >/dev/null 2>&1; do
        kill -0 "$serving" 2>/dev/null || { tail -30 "$log"; fail "make serve ended"; }
        [ $(($(date +%s) - began)) -lt "$READY_WITHIN_S" ] || fail "not ready in $READY_WITHIN_S s"
        sleep 5
    done
    say "make serve, from the clone to ready: $(since "$began")"
    grep -E '^ready' "$log"
    inside '.venv/bin/server predict --text "smell of smoke near the drive" \
        --image pipelines/triage/samples/station.jpg --audio pipelines/triage/samples/machine.wav'
    inside '.venv/bin/server drain' || code=$?
    wait "$serving" || code=$?
    [ "$code" = 0 ] || fail "the server did not end well ($code)"
}

tested() {
    local began
    began=$(date +%s)
    inside 'make setup'
    say "make setup, Qt's system libraries included: $(since "$began")"
    began=$(date +%s)
    offline 'make test' || fail "make test"
    say "make test, with no network but loopback: $(since "$began")"
}

debootstrapped
cloned
served
[ -n "$serve_only" ] || tested
