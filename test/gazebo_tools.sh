#!/usr/bin/env bash
# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
# Gets what the tests of the SDF files need, the command `ign sdf` and the specification of SDF, where Debian or Ubuntu
# has them: its packages are unpacked into a folder, without root and without installing anything.
#
#   test/gazebo_tools.sh FOLDER
#
# Does nothing where they are installed. Where they cannot be had it says why, and the tests are skipped.
set -euo pipefail

if command -v ign > /dev/null && compgen -G "/usr/share/sdformat*/1.9/root.sdf" > /dev/null; then
    exit 0
fi
if ! command -v apt-get > /dev/null || ! command -v dpkg-deb > /dev/null; then
    echo "no apt-get here: the tests with Gazebo's tools will be skipped" >&2
    exit 0
fi

mkdir -p "$1"
folder=$(cd "$1" && pwd)
archives=$folder/archives
mkdir -p "$archives/partial" "$folder/lists/partial"
apt=(-qq -o Debug::NoLocking=1 -o "Dir::Cache::archives=$archives")

download() {
    # The library's package is named by its version; of the development package only the command is needed.
    local library
    library=$(apt-cache "${apt[@]}" depends libsdformat-dev | awk '$1 == "Depends:" && /libsdformat[0-9]/ {print $2}') || return
    apt-get "${apt[@]}" install --yes --download-only --no-install-recommends ignition-tools "$library" || return
    (cd "$archives" && apt-get "${apt[@]}" download libsdformat-dev)
}

if ! download 2> "$folder/apt.log"; then
    # A machine whose own lists of packages are missing or old, such as a container.
    apt+=(-o "Dir::State::lists=$folder/lists" -o "Dir::Cache::pkgcache=" -o "Dir::Cache::srcpkgcache=")
    if ! apt-get "${apt[@]}" -o APT::Update::Error-Mode=any update 2>> "$folder/apt.log" || ! download 2>> "$folder/apt.log"; then
        echo "the tests with Gazebo's tools will be skipped: $(tail -n 1 "$folder/apt.log")" >&2
        rm -rf "$folder"
        exit 0
    fi
fi

for package in "$archives"/*.deb; do
    dpkg-deb --extract "$package" "$folder"
done
sed -i "s|library_path: /|library_path: $folder/|" "$folder"/usr/share/ignition/*.yaml
rm -rf "$archives" "$folder/lists" "$folder/apt.log"

cat > "$folder/ign" << 'END'
#!/usr/bin/env bash
# Runs the unpacked `ign` with the libraries beside it.
folder=$(dirname "$(readlink -f "$0")")
libraries=$(echo "$folder"/usr/lib/*-linux-gnu*)
modules=$(echo "$folder"/usr/lib/ruby/[0-9]* "$libraries"/ruby/[0-9]* "$folder"/usr/lib/ruby/vendor_ruby | tr ' ' ':')
ruby=$(compgen -G "$folder/usr/bin/ruby[0-9]*") || ruby=ruby
export LD_LIBRARY_PATH=$libraries RUBYLIB=$modules IGN_CONFIG_PATH=$folder/usr/share/ignition
exec "$ruby" "$folder/usr/bin/ign" "$@"
END
chmod +x "$folder/ign"
