#!/usr/bin/env bash
# Installs what makes clients of the API's description, as pinned beside this file, into a folder:
#
#     tools/generators/install.sh FOLDER
#
# It needs python3 and the network. A folder that has these very versions is left as it is.
set -euo pipefail
folder="$1"
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
pins="$(cat "$here/requirements.txt" "$here/package-lock.json" | cksum)"
[ "$(cat "$folder/pins" 2>/dev/null)" = "$pins" ] && exit 0

rm -rf "$folder"
python3 -m venv "$folder"
"$folder/bin/python" -m pip install --quiet -r "$here/requirements.txt"
cp "$here/package.json" "$here/package-lock.json" "$folder/"
(cd "$folder" && PATH="$folder/bin:$PATH" npm ci --silent --no-audit --no-fund)
printf '%s\n' "$pins" >"$folder/pins"
