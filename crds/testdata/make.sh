#!/bin/sh
# Makes the vectors beside it: keys and certificates with openssl, sealed values with the real kubeseal (v0.27.1).
# Usage: KUBESEAL=/path/to/kubeseal ./make.sh
set -eu
cd "$(dirname "$0")"
kubeseal=${KUBESEAL:?the path of kubeseal}

key() { # name bits
    openssl genrsa -traditional -out "$1.key" "$2" 2>/dev/null
    openssl req -x509 -new -key "$1.key" -subj / -days 36500 -out "$1.crt" 2>/dev/null
}
key new 4096
key old 2048
key small 1024
openssl pkcs8 -topk8 -nocrypt -in old.key -out old.pkcs8.key

seal() { # certificate scope output
    KUBECONFIG=/dev/null "$kubeseal" --cert "$1.crt" --scope "$2" --format yaml <secret.yaml >"$3.yaml"
}
seal new strict strict
seal new namespace-wide namespace-wide
seal new cluster-wide cluster-wide
seal old strict old-key
seal small strict small-key
