#!/bin/sh
# compose.sh ARGUMENTS: docker/compose.yml by the compose plugin, or by docker-compose 1.29 where there is none.
set -eu
cd "$(dirname "$0")/.."
if [ -n "${SKY:-}" ]; then
    # Nodes reach the SuperLink by way of the relay, each by a port of its own.
    export SKY COMPOSE_PROFILES=sky EMS_FL_LINK_1=relay:9101 EMS_FL_LINK_2=relay:9102 \
        EMS_FL_LINK_3=relay:9103 EMS_FL_LINK_4=relay:9104
fi
if docker compose version >/dev/null 2>&1; then exec docker compose -f docker/compose.yml "$@"; fi
command -v docker-compose >/dev/null || { echo "neither 'docker compose' nor docker-compose is here" >&2; exit 1; }
# 1.29 does not ask BuildKit for the output it waits for.
DOCKER_BUILDKIT=0 exec docker-compose -f docker/compose.yml "$@"
