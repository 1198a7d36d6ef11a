#!/usr/bin/env bash
# Programs the tests call and pip cannot bring: promtool checks the alert rules. Needs root and apt; else it says what is missing.
set -euo pipefail

if command -v promtool >/dev/null; then
    exit 0
fi
if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
    echo "promtool is missing (Debian, Ubuntu: apt install prometheus); the tests that need it are skipped, or fail where CI=true." >&2
    exit 0
fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -qqy --no-install-recommends prometheus >/dev/null
