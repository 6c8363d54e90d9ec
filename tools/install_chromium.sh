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
mkdir -p "$part"
part="$(cd "$part" && pwd)"

instead="install Chromium, or set CHROMIUM to the path of a Chromium or Chrome"
"$(dirname "${BASH_SOURCE[0]}")/unpack_debian.sh" "$part" "$instead" "$PACKAGE"

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
"$part/chromium" --no-sandbox --version || { echo "the Chromium of $PACKAGE does not start: $instead." >&2; exit 1; }
rm -rf "$folder"
mv "$part" "$folder"
