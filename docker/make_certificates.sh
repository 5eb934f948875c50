#!/bin/sh
# A certificate authority of one's own, and a certificate of it for all servers of the stack, for a year. What is
# there is left alone. A company has an authority: put its files there instead.
set -eu

folder=${1:?the folder of the secrets, such as docker/secrets}
if [ -e "$folder/tls_server.crt" ]; then
    echo "already in $folder"
    exit 0
fi
# The key of the authority is needed once, here, and is not kept.
draft=$(mktemp -d)
trap 'rm -rf "$draft"' EXIT
names=DNS:postgres,DNS:redis,DNS:s3,DNS:mlflow,DNS:api-server,DNS:localhost,IP:127.0.0.1
printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth\n' "${TLS_NAMES:+$TLS_NAMES,}$names" >"$draft/names"
openssl req -x509 -newkey rsa:3072 -nodes -days 365 -subj "/CN=Nightshift CA" \
    -addext keyUsage=critical,keyCertSign -keyout "$draft/ca.key" -out "$draft/tls_ca.crt" 2>/dev/null
openssl req -newkey rsa:3072 -nodes -subj "/CN=Nightshift" \
    -keyout "$draft/tls_server.key" -out "$draft/server.csr" 2>/dev/null
openssl x509 -req -days 365 -in "$draft/server.csr" -CA "$draft/tls_ca.crt" -CAkey "$draft/ca.key" \
    -CAcreateserial -extfile "$draft/names" -out "$draft/tls_server.crt" 2>/dev/null
# The folder is closed to other users; each container reads its files as a user of its own.
chmod 644 "$draft"/tls_*
mv "$draft/tls_ca.crt" "$draft/tls_server.key" "$draft/tls_server.crt" "$folder"
echo "written to $folder: tls_ca.crt, tls_server.crt, tls_server.key"
