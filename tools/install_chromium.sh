#!/usr/bin/env bash
# Puts a headless Chromium into a folder of its own, from Debian's packages and without installing them:
#
#     tools/install_chromium.sh FOLDER
#
# Afterwards FOLDER/chromium starts it. Takes the browser and those of its libraries that this machine lacks, about 100 MB
# to fetch and 300 MB unpacked. Needs apt-get and dpkg, and root only where apt-get has no current list of packages.
set -euo pipefail

# The browser without a window: all that tests need, and half of the size.
readonly PACKAGE=chromium-headless-shell

folder=$1
part="$folder.part"
rm -rf "$part"
mkdir -p "$part/debs/partial"
part="$(cd "$part" && pwd)"

instead="install Chromium, or set CHROMIUM to the path of a Chromium or Chrome"
for tool in apt-get dpkg; do
    command -v "$tool" >/dev/null || { echo "there is no $tool here: $instead." >&2; exit 1; }
done

# The lock guards what is installed, and nothing is.
fetch() {
    apt-get install --download-only --yes --no-install-recommends -o Debug::NoLocking=1 \
        -o Dir::Cache::archives="$part/debs/" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= "$@" "$PACKAGE"
}
# Where Chromium itself is installed but not found, --reinstall would be needed; CHROMIUM is the simpler way then.
if ! fetch >"$part/log" 2>&1; then
    echo "   asking for the list of packages"
    apt-get update >>"$part/log" 2>&1 || true
    fetch >>"$part/log" 2>&1 || { cat "$part/log" >&2; echo "apt-get cannot fetch $PACKAGE: $instead." >&2; exit 1; }
fi
count=0
for deb in "$part"/debs/*.deb; do
    dpkg -x "$deb" "$part/root"
    count=$((count + 1))
done
echo "   unpacked $count packages"

# Paths that hold once the folder has its name.
cat >"$part/chromium" <<'SCRIPT'
#!/bin/sh
here="$(dirname "$(readlink -f "$0")")"
libraries="$(find "$here/root" -name '*.so*' -printf '%h:' | tr ':' '\n' | sort -u | tr '\n' ':')"
export LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:-}"
export FONTCONFIG_FILE="$here/fonts.conf"
exec "$here/root/usr/lib/chromium/chromium-headless-shell" "$@"
SCRIPT
chmod +x "$part/chromium"
# A machine without fonts has the one that came with the libraries.
cat >"$part/fonts.conf" <<'XML'
<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig>
  <dir>/usr/share/fonts</dir>
  <dir prefix="relative">root/usr/share/fonts</dir>
  <cachedir prefix="xdg">fontconfig</cachedir>
  <alias><family>sans-serif</family><prefer><family>DejaVu Sans</family></prefer></alias>
  <alias><family>monospace</family><prefer><family>DejaVu Sans Mono</family></prefer></alias>
</fontconfig>
XML
rm -rf "$part/debs" "$part/log"
"$part/chromium" --no-sandbox --version || { echo "the Chromium of $PACKAGE does not start: $instead." >&2; exit 1; }
rm -rf "$folder"
mv "$part" "$folder"
