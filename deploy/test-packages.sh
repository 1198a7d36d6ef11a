#!/usr/bin/env bash
# Programs the tests call and pip cannot bring: promtool checks the alert rules, openssl makes certificates.
# Needs root and apt; else it says what is missing.
set -euo pipefail

packages=()
command -v promtool >/dev/null || packages+=(prometheus)
command -v openssl >/dev/null || packages+=(openssl)
if [[ ${#packages[@]} == 0 ]]; then
    exit 0
fi
if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
    echo "To be installed for the tests (Debian, Ubuntu: apt install ${packages[*]}). Without openssl the tests of HTTPS fail;" \
        "those of promtool are skipped, or fail where CI=true." >&2
    exit 0
fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -qqy --no-install-recommends "${packages[@]}" >/dev/null
