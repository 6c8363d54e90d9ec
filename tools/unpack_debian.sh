#!/usr/bin/env bash
# Unpacks Debian packages into a folder of their own, without installing them:
#
#     tools/unpack_debian.sh FOLDER INSTEAD PACKAGE...
#
# FOLDER/root then holds the packages and those of their libraries that this machine lacks. INSTEAD ends the sentence that
# says that it does not work. Needs apt-get and dpkg, and root only where apt-get has no current list of packages.
set -euo pipefail

folder=$1
instead=$2
shift 2
mkdir -p "$folder/debs/partial"
folder="$(cd "$folder" && pwd)"

for tool in apt-get dpkg; do
    command -v "$tool" >/dev/null || { echo "there is no $tool here: $instead." >&2; exit 1; }
done

# The lock guards what is installed, and nothing is.
fetch() {
    apt-get install --download-only --yes --no-install-recommends -o Debug::NoLocking=1 \
        -o Dir::Cache::archives="$folder/debs/" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= "$@"
}
# Where a package is installed but its program not found, --reinstall would be needed; a variable is the simpler way then.
if ! fetch "$@" >"$folder/log" 2>&1; then
    echo "   asking for the list of packages"
    apt-get update >>"$folder/log" 2>&1 || true
    fetch "$@" >>"$folder/log" 2>&1 || { cat "$folder/log" >&2; echo "apt-get cannot fetch $*: $instead." >&2; exit 1; }
fi
count=0
for deb in "$folder"/debs/*.deb; do
    dpkg -x "$deb" "$folder/root"
    count=$((count + 1))
done
echo "   unpacked $count packages"
rm -rf "$folder/debs" "$folder/log"
