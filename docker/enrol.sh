#!/bin/sh
# enrol.sh make: certificates and keys, each role's into its own volume (/tls, /sites/N), with what a site is to hold.
# enrol.sh register HOST:PORT: tell the SuperLink which nodes may come. Both leave what is there as it is.
set -eu
sites="1 2 3 4"

make_keys() {
    # Word splitting is wanted: one option for each site.
    # shellcheck disable=SC2046
    python -m cli keys /authority --host superlink --host relay $(printf -- '--node site-%s ' $sites)
    install -m 644 /authority/ca.crt /authority/server.crt /tls/
    install -m 600 /authority/server.key /tls/
    for site in $sites; do
        install -m 644 /authority/ca.crt "/sites/$site/"
        install -m 600 "/authority/nodes/site-$site" "/sites/$site/key"
        [ -e "/sites/$site/texts.jsonl" ] || cp "/opt/ems-fl/demo/site-$site.jsonl" "/sites/$site/texts.jsonl"
    done
}

case "$1" in
    make) make_keys ;;
    register) python -m cli keys /authority --register "$2" ;;
    *) echo "enrol.sh make | register HOST:PORT" >&2; exit 2 ;;
esac
