#!/bin/sh
# Writes the users with the digests of the mounted passwords, then becomes the server.
set -eu
umask 077

digest() {
  password=$(cat "/etc/forebay/redis/$1-password")
  printf '%s' "$password" | sha256sum | cut -d ' ' -f 1
}

controller=$(digest controller)
gateway=$(digest gateway)
sed -e "s/CONTROLLER_DIGEST/$controller/" -e "s/GATEWAY_DIGEST/$gateway/" /etc/forebay/config/users.acl >/run/valkey/users.acl
exec valkey-server /etc/forebay/config/valkey.conf
