#!/usr/bin/env bash
# Unpacks QEMU 10.0 of bookworm-backports into .cache/qemu-10.0; the machine's packages and apt configuration stay as they are.
#
# apt runs on state and cache folders of its own and on one source list made here, whose mirror is one that the machine's own
# sources name; signatures are checked against the machine's archive keyring. dpkg's status is shared (read only), so apt
# knows which libraries are there and adds just those that are not. The folder appears by one rename, complete or not at all.
# Called by setup.sh, which holds the lock. `qemu.sh --mirrors` only prints where it would look.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

home=$PWD/.cache/qemu-10.0
program=qemu-system-x86_64
what="QEMU 10.0"
. .ci/unpacked.sh
packages=(qemu-system-x86 qemu-system-common qemu-system-data seabios)

bookworm_mirrors() { # apt itself reads the sources, so both formats are understood, with or without package lists fetched
    apt-get update --print-uris | sed -n "s|^'\(.*\)/dists/bookworm/main/binary-[^/]*/Packages.*|\1|p" | awk '!seen[$0]++'
}

write_apt_configuration() { # $1 work folder, $2 mirror
    local keyring=/usr/share/keyrings/debian-archive-keyring.gpg options=
    [ ! -r "$keyring" ] || options="[signed-by=$keyring] " # else the keys apt trusts for every source
    mkdir -p "$1"/{state,cache,no-pins.d}
    printf 'deb %s%s %s main\n' "$options" "$2" bookworm "$options" "$2" bookworm-backports >"$1/sources.list"
    # Read after the machine's own files: proxies, certificates and credentials stay, its sources, pins and hooks do not.
    cat >"$1/apt.conf" <<EOF
Dir::Etc::sourcelist "$1/sources.list";
Dir::Etc::sourceparts "-";
Dir::Etc::preferences "$1/no-pins";
Dir::Etc::preferencesparts "$1/no-pins.d";
Dir::State "$1/state";
Dir::Cache "$1/cache";
Acquire::Languages "none";
Acquire::Retries "1";
Acquire::http::Timeout "20";
Acquire::AllowInsecureRepositories "false";
APT::Get::AllowUnauthenticated "false";
APT::Sandbox::User "root"; // the download folder is ours alone: apt's own user could not write there
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
EOF
}

download() { # $1 work folder: fetches the packages, and what they depend on where this machine does not have it
    local -a apt_get=(apt-get -q -c "$1/apt.conf" -t bookworm-backports)
    local wanted
    "${apt_get[@]}" update || return 1
    wanted=$("${apt_get[@]}" -s --no-install-recommends install "${packages[@]}" | sed -n 's/^Inst \([^ ]*\) .*/\1/p') || return 1
    mkdir "$1/debs"
    # shellcheck disable=SC2086
    (cd "$1/debs" && "${apt_get[@]}" download $(printf '%s\n' "${packages[@]}" $wanted | sort -u))
}

unpack() { # $1 work folder, $2 folder to fill
    local deb libraries modules
    for deb in "$1"/debs/*.deb; do
        dpkg -x "$deb" "$2/root" || return 1
    done
    # Library folders are put on the loader's path only where something had to be unpacked beside QEMU.
    libraries=$(cd "$2" && find root/lib root/usr/lib -maxdepth 2 -name '*.so*' -printf '%h\n' 2>/dev/null | sort -u | xargs)
    modules=$(cd "$2" && echo root/usr/lib/*-linux-gnu*/qemu)
    # shellcheck disable=SC2016,SC2086
    {
        echo '#!/bin/sh'
        echo '# Runs the QEMU unpacked here with its own firmware and modules (the system has another version of them).'
        echo 'here=$(dirname "$(readlink -f "$0")")'
        printf 'export QEMU_MODULE_DIR="$here/%s"\n' "$modules"
        [ -z "$libraries" ] ||
            printf 'export LD_LIBRARY_PATH="%s${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"\n' "$(printf ':$here/%s' $libraries | cut -c2-)"
        echo 'exec "$here/root/usr/bin/qemu-system-x86_64" \'
        echo '    -L "$here/root/usr/share/seabios" -L "$here/root/usr/share/qemu" -L "$here/root/usr/lib/ipxe/qemu" "$@"'
    } >"$2/qemu-system-x86_64"
    chmod +x "$2/qemu-system-x86_64"
}

if [ "${1:-}" = --mirrors ]; then
    bookworm_mirrors
    exit
fi
leave_if_settled

command -v apt-get >/dev/null && command -v dpkg >/dev/null || give_up "this machine has no apt-get"
mirrors=$(bookworm_mirrors) || true
[ -n "$mirrors" ] || give_up "no apt source of this machine is for bookworm"
log=$PWD/.cache/setup-qemu.log
: >"$log"
echo "setup: unpacking QEMU 10.0 into .cache" >&2
work= fetched=
trap 'rm -rf "$work"' EXIT
for mirror in $mirrors; do # a stranger's archive may be called bookworm too: it fails Debian's signature, and the next is tried
    rm -rf "$work"
    work=$(mktemp -d "$home.work.XXXXXX")
    write_apt_configuration "$work" "$mirror"
    if download "$work" </dev/null >>"$log" 2>&1; then
        fetched=yes
        break
    fi
done
[ -n "$fetched" ] || give_up "bookworm-backports could not be fetched, see $log"
mkdir "$work/home"
unpack "$work" "$work/home" >>"$log" 2>&1 || give_up "the packages could not be unpacked, see $log"
version=$("$work/home/qemu-system-x86_64" --version 2>&1 | head -n 1) || true
[[ $version == *" 10.0."* ]] || give_up "what bookworm-backports has says: $version"
mv -T "$work/home" "$home"
