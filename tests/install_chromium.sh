#!/bin/sh
# The report's page is tested in a real browser. Installs Debian's Chromium, its driver and a
# Chinese font where they are missing.
set -eu
if command -v chromium >/dev/null && command -v chromedriver >/dev/null; then
    exit 0
fi
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "The tests need chromium and chromedriver; install them, e.g. as root: apt-get install chromium chromium-driver" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qq install -y --no-install-recommends chromium chromium-driver fonts-wqy-zenhei >/dev/null
