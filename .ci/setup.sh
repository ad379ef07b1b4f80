#!/usr/bin/env bash
# Makes the working tree ready: Debian packages, the Python environment in .venv, QEMU 10.0 and helm in .cache.
#
# It does only what is not done yet (well under a second when nothing is), as root or not. What it cannot install it names
# in one line and goes on with the rest; only without Python or the Python packages does it fail. Where packages come from
# is for pip's and apt's own configuration to say.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH=$PATH:/usr/sbin:/sbin # ip lives there, outside an ordinary user's PATH

say() { echo "setup: $*" >&2; }

# Tool to look for -> Debian package that brings it.
declare -A package_of=(
    [qemu-system-x86_64]=qemu-system-x86
    [accel-config]=accel-config
    [as]=binutils
    [cc]=gcc
    [chromium]=chromium
    [ip]=iproute2
    [openssl]=openssl
    [promtool]=prometheus
)

usable_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.11 /usr/bin/python3; do
        # Debian splits ensurepip off into python3-venv.
        if [ -n "$candidate" ] &&
            "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    return 1
}

venv_is_ours() { # false after the tree was moved or copied: scripts in a venv name its absolute path
    [ -x .venv/bin/python ] && [ -x .venv/bin/pip ] && head -n 1 .venv/bin/pip | grep -qF "$PWD/.venv/bin/"
}

missing_packages() {
    local tool
    for tool in "${!package_of[@]}"; do
        command -v "$tool" >/dev/null || echo "${package_of[$tool]}"
    done
    # gcc alone has no headers to compile against.
    [ -e /usr/include/stdio.h ] || echo libc6-dev
    venv_is_ours || usable_python >/dev/null || echo python3 python3-venv
}

# Debian starts a server that it installs, and does so at every boot; of Prometheus only the programs are wanted. One that
# somebody installed before is left alone.
install_no_server() { # the command that installs
    if [[ " $missing " != *" prometheus "* ]] || [ ! -d /run/systemd/system ]; then
        "$@"
        return
    fi
    local status=0
    systemctl -q mask --runtime prometheus || true
    "$@" || status=$?
    systemctl -q unmask --runtime prometheus || true
    systemctl -q disable prometheus || true
    return "$status"
}

install_debian_packages() {
    local missing log=.cache/setup-apt.log
    local -a apt_get=(apt-get -q -o DPkg::Lock::Timeout=120 -o Acquire::Retries=2 -o Acquire::http::Timeout=30)
    missing=$(missing_packages | sort | xargs)
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "installing Debian packages: $missing"
        # A source of somebody else's that fails must not stop us: whether the packages can be had is what counts. The lock
        # (descriptor 9) is closed lest a service that a package starts keep it.
        DEBIAN_FRONTEND=noninteractive "${apt_get[@]}" update </dev/null >"$log" 2>&1 9>&- || true
        # shellcheck disable=SC2086
        DEBIAN_FRONTEND=noninteractive install_no_server "${apt_get[@]}" install -y --no-install-recommends $missing \
            </dev/null >>"$log" 2>&1 9>&- || tail -n 5 "$log" >&2
        missing=$(missing_packages | sort | xargs)
    fi
    [ -z "$missing" ] || say "missing: $missing; install as root: apt-get update && apt-get install -y $missing"
}

install_python_packages() {
    local stamp=.venv/.setup-stamp fingerprint python
    fingerprint="$PWD $(cat pyproject.toml constraints.txt .ci/setup.sh | sha256sum)"
    if venv_is_ours && [ -x .venv/bin/kuaka ] && [ "$(cat "$stamp" 2>/dev/null)" = "$fingerprint" ]; then
        return
    fi
    if ! venv_is_ours; then
        python=$(usable_python) || { say "cannot go on without Python >= 3.11 that has venv"; return 1; }
        "$python" -m venv --clear .venv
    fi
    say "installing Python packages into .venv"
    # -c pins what is installed; the variables pin what pip builds with (old pips read the first, new ones the second).
    PIP_CONSTRAINT="${PIP_CONSTRAINT:+$PIP_CONSTRAINT }constraints.txt" PIP_BUILD_CONSTRAINT=constraints.txt PIP_NO_INPUT=1 \
        .venv/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev]' </dev/null ||
        { say "the Python packages could not be installed"; return 1; }
    echo "$fingerprint" >"$stamp"
}

mkdir -p .cache
exec 9>.cache/setup.lock
flock 9
install_debian_packages
install_python_packages
.ci/qemu.sh || true # it has said why
.ci/helm.sh || true
