#!/bin/sh
# Migrates a fleet as a Ray job with nothing but Ray on this machine: ./submit-job.sh http://HEAD:8265 image-fleet.yaml [ID]
# The spec travels in the job's working directory, so no path of this machine is assumed on the cluster. The exit code is
# Ray's: 0 or 1; `kuaka submit` ends as the migration did, and does not begin the same twice.
# RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) are the cluster's.
set -eu

address=$1 spec=$2 id=${3:-$(basename "$2" .yaml)-$(date +%Y%m%d-%H%M%S)}
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cp "$spec" "$directory/fleet.yaml"
ray job submit --address "$address" --submission-id "$id" --working-dir "$directory" -- kuaka migrate fleet.yaml
