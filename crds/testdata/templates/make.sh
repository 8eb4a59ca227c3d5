#!/bin/sh
# Renders cases.txt with the real Sealed Secrets (v0.40.0, its own code path and function map) into table.json.
# Usage: ./make.sh
set -eu
cd "$(dirname "$0")"
TZ=UTC go run . <cases.txt >table.json.new
mv table.json.new table.json
