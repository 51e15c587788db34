#!/bin/sh
# compose.sh ARGUMENTS: docker/compose.yml by the compose plugin, or by docker-compose 1.29 where there is none.
set -eu
cd "$(dirname "$0")/.."
if docker compose version >/dev/null 2>&1; then exec docker compose -f docker/compose.yml "$@"; fi
command -v docker-compose >/dev/null || { echo "neither 'docker compose' nor docker-compose is here" >&2; exit 1; }
# 1.29 does not ask BuildKit for the output it waits for.
DOCKER_BUILDKIT=0 exec docker-compose -f docker/compose.yml "$@"
