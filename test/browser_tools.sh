#!/usr/bin/env bash
# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
# Gets Chromium for the tests of the page, where Debian has it: its packages are unpacked into a folder, without root and
# without installing anything.
#
#   test/browser_tools.sh FOLDER
#
# Does nothing where it is installed. Where it cannot be had it says why, and the tests are skipped.
set -euo pipefail

if command -v chromium > /dev/null; then
    exit 0
fi
if ! command -v apt-get > /dev/null || ! command -v dpkg-deb > /dev/null; then
    echo "no apt-get here: the tests in a browser will be skipped" >&2
    exit 0
fi

mkdir -p "$1"
folder=$(cd "$1" && pwd)
archives=$folder/archives
mkdir -p "$archives/partial" "$folder/lists/partial"
apt=(-qq -o Debug::NoLocking=1 -o "Dir::Cache::archives=$archives")

download() {
    apt-get "${apt[@]}" install --yes --download-only --no-install-recommends chromium fonts-dejavu-core
}

if ! download 2> "$folder/apt.log"; then
    # A machine whose own lists of packages are missing or old, such as a container.
    apt+=(-o "Dir::State::lists=$folder/lists" -o "Dir::Cache::pkgcache=" -o "Dir::Cache::srcpkgcache=")
    if ! apt-get "${apt[@]}" -o APT::Update::Error-Mode=any update 2>> "$folder/apt.log" || ! download 2>> "$folder/apt.log"; then
        echo "the tests in a browser will be skipped: $(tail -n 1 "$folder/apt.log")" >&2
        rm -rf "$folder"
        exit 0
    fi
fi

for package in "$archives"/*.deb; do
    dpkg-deb --extract "$package" "$folder"
done
rm -rf "$archives" "$folder/lists" "$folder/apt.log"

cat > "$folder/chromium" << 'END'
#!/usr/bin/env bash
# Runs the unpacked Chromium with the libraries beside it.
folder=$(dirname "$(readlink -f "$0")")
libraries=$(echo "$folder"/usr/lib/*-linux-gnu*)
export LD_LIBRARY_PATH=$libraries:$libraries/pulseaudio XDG_DATA_DIRS=$folder/usr/share:${XDG_DATA_DIRS:-/usr/local/share:/usr/share}
exec "$folder/usr/lib/chromium/chromium" "$@"
END
chmod +x "$folder/chromium"
if ! version=$("$folder/chromium" --version 2>&1); then
    echo "the tests in a browser will be skipped: $version" >&2
    rm -rf "$folder"
fi
