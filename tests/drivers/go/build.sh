#!/bin/sh
# Without a module and with Debian's sources alone: Go fetches nothing.
set -eu
root="$PWD/root"
package=golang-github-jackc-pgx-v5-dev
version=$(zcat "$root/usr/share/doc/$package/changelog.Debian.gz" | sed -n '1s/.*(\([0-9.]*\).*/\1/p')
GOROOT=$(echo "$root"/usr/lib/go-[0-9]*)
GOPATH="$root/usr/share/gocode" GO111MODULE=off GOCACHE="$PWD/cache" CGO_ENABLED=0 GOROOT="$GOROOT" \
    "$GOROOT/bin/go" build -ldflags "-X main.version=$version" -o pgx pgx.go
