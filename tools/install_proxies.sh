#!/usr/bin/env bash
# Puts reverse proxies into a folder of their own, from Debian's packages and without installing them:
#
#     tools/install_proxies.sh FOLDER
#
# Afterwards FOLDER/nginx, FOLDER/haproxy and FOLDER/caddy start them. About 20 MB to fetch and 50 MB unpacked.
set -euo pipefail

folder=$1
part="$folder.part"
rm -rf "$part"
mkdir -p "$part"
part="$(cd "$part" && pwd)"
"$(dirname "${BASH_SOURCE[0]}")/unpack_debian.sh" "$part" \
    "install nginx, haproxy and caddy, or set NGINX, HAPROXY and CADDY to their paths" nginx haproxy caddy

for program in usr/sbin/nginx usr/sbin/haproxy usr/bin/caddy; do
    # Paths that hold once the folder has its name.
    cat >"$part/$(basename "$program")" <<SCRIPT
#!/bin/sh
here="\$(dirname "\$(readlink -f "\$0")")"
libraries="\$(find "\$here/root" -name '*.so*' -printf '%h:' | tr ':' '\n' | sort -u | tr '\n' ':')"
export LD_LIBRARY_PATH="\$libraries\${LD_LIBRARY_PATH:-}"
exec "\$here/root/$program" "\$@"
SCRIPT
    chmod +x "$part/$(basename "$program")"
done
"$part/nginx" -v && "$part/haproxy" -v && "$part/caddy" version || { echo "the unpacked proxies do not start." >&2; exit 1; }
rm -rf "$folder"
mv "$part" "$folder"
