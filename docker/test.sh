#!/bin/sh
# The short deployment run in containers, for real: builds the image, starts docker/compose.yml with its keys and
# its nodes' own data, runs conf/containers.toml through it, checks what came out, that a stranger gets nowhere and that a
# SuperLink may restart, and ends everything it started. `make test-docker` calls it.
#
# Where no Docker engine answers it installs Debian's (apt-get) and starts one of its own, which needs root. Where the base
# image cannot be pulled it makes one with debootstrap. Python packages are downloaded outside, by pip, so that the build
# needs no network. All of it lies in a temporary folder; EMS_FL_DOCKER_WORK names one that is kept for the next time.
# EMS_FL_DOCKER_OPTIONAL=yes: a machine that cannot run containers is told of and is no failure.
set -eu

cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
PIP_ARGS=${PIP_ARGS:-}
BASE_IMAGE=${BASE_IMAGE:-python:3.11-slim-bookworm}
PULL_PATIENCE_S=60
work=${EMS_FL_DOCKER_WORK:-$(mktemp -d "${TMPDIR:-/var/tmp}/ems-fl-docker.XXXXXX")}
project=ems-fl-test-$$
mkdir -p "$work"
engine=
started=
downloaded=
export DOCKER_BUILDKIT=0 EMS_FL_IMAGE="$project"

say() { echo "test-docker: $*"; }
fail() { echo "test-docker: $*" >&2; exit 1; }
# Of what a machine must have for this: where EMS_FL_DOCKER_OPTIONAL is set, its lack is told and is no failure.
lack() {
    [ -z "${EMS_FL_DOCKER_OPTIONAL:-}" ] || { say "SKIPPED: $*"; exit 0; }
    fail "$*"
}

compose() { sh docker/compose.sh -p "$project" "$@"; }

clean_up() {
    status=$?
    trap - EXIT INT TERM HUP
    if [ -n "$started" ]; then
        [ "$status" -eq 0 ] || compose logs --no-color --tail 60 || true
        compose down -v --remove-orphans --timeout 5 || true
    fi
    if [ -n "$engine" ]; then
        say "ending the Docker engine"
        kill "$engine" 2>/dev/null || true
        wait "$engine" 2>/dev/null || true
    else
        docker image rm -f "$project" "$project-node" >/dev/null 2>&1 || true
    fi
    [ -z "$downloaded" ] || rm -rf docker/wheelhouse
    [ -n "${EMS_FL_DOCKER_WORK:-}" ] || rm -rf "$work"
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

need() { # need COMMAND PACKAGES...: install Debian packages when a command is missing
    command=$1; shift
    command -v "$command" >/dev/null 2>&1 && return
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1 || lack "$command is missing: install $* or run as root"
    say "installing $*"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q "$@" >"$work/apt.log" 2>&1 \
      || { apt-get update -q >>"$work/apt.log" 2>&1 && apt-get install -y -q "$@" >>"$work/apt.log" 2>&1; } \
      || lack "apt-get could not install $*; see $work/apt.log"
}

start_engine() {
    need docker docker.io
    if docker info >/dev/null 2>&1; then say "using the Docker engine that runs already"; return; fi
    [ "$(id -u)" = 0 ] || lack "no Docker engine answers, and starting one needs root"
    # Debian keeps dockerd where not everybody's PATH looks.
    PATH="$PATH:/usr/sbin:/sbin"
    need dockerd docker.io
    say "starting a Docker engine"
    export DOCKER_HOST="unix://$work/docker.sock"
    # No bridge, no packet filter, no forwarding: an engine leaves those behind when it ends, and an internal network
    # needs none of them. A session of its own, so that Ctrl-C leaves it alive until the containers are gone.
    setsid dockerd --data-root "$work/data" --exec-root "$work/exec" --pidfile "$work/dockerd.pid" \
        --host "$DOCKER_HOST" --bridge none --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false \
        >"$work/dockerd.log" 2>&1 &
    engine=$!
    for _ in $(seq 60); do
        docker info >/dev/null 2>&1 && return
        kill -0 "$engine" 2>/dev/null || lack "the engine ended at once; see: $(tail -n 3 "$work/dockerd.log")"
        sleep 1
    done
    lack "the engine did not answer within 60 s"
}

find_base_image() {
    docker image inspect "$BASE_IMAGE" >/dev/null 2>&1 && return
    say "pulling $BASE_IMAGE"
    timeout "$PULL_PATIENCE_S" docker pull -q "$BASE_IMAGE" && return
    say "no registry can be reached: making a base image with debootstrap"
    need debootstrap debootstrap
    BASE_IMAGE=ems-fl-base:bookworm
    docker image inspect "$BASE_IMAGE" >/dev/null 2>&1 && return
    rm -rf "$work/rootfs"
    debootstrap --variant=minbase --include=python3,python3-venv,python3-pip,ca-certificates bookworm "$work/rootfs" \
        >"$work/debootstrap.log" 2>&1 || lack "debootstrap failed; see $(tail -n 3 "$work/debootstrap.log")"
    rm -rf "$work/rootfs/var/lib/apt/lists" "$work/rootfs/var/cache/apt"
    tar -C "$work/rootfs" -c . | docker import -c 'CMD ["bash"]' - "$BASE_IMAGE" >/dev/null
    rm -rf "$work/rootfs"
}

try_container() {
    told=$(docker run --rm --network none "$BASE_IMAGE" true 2>&1) || lack "the engine cannot run a container here: $told"
}

build() {
    if [ -d docker/wheelhouse ]; then
        say "using the wheels in docker/wheelhouse"
    else
        say "downloading Python packages"
        downloaded=yes
        # Word splitting is wanted: PIP_ARGS holds several arguments.
        # shellcheck disable=SC2086
        "$PYTHON" -m pip --disable-pip-version-check download $PIP_ARGS -d "$work/wheels" -r requirements.txt
        mkdir docker/wheelhouse
        cp -l "$work"/wheels/* docker/wheelhouse/ 2>/dev/null || cp "$work"/wheels/* docker/wheelhouse/
    fi
    say "building the images on $BASE_IMAGE"
    export BASE_IMAGE
    PIP_ARGS="--no-index --find-links /wheels" compose build keys node-1
    for image in "$project" "$project-node"; do
        docker image ls "$image" --format "test-docker: the image {{.Repository}} holds {{.Size}}"
    done
}

run() {
    started=yes
    began=$(date +%s)
    compose up -d --no-build
    say "running conf/containers.toml"
    compose exec -T server python -m cli run --superlink superlink:8000 --root-certificates /tls/ca.crt \
        --timeout 900 conf/containers.toml
    say "$(( $(date +%s) - began )) s from the start of the containers to the end of the run"
    # Nothing of what the run wrote is outside its volume, so another container sees it.
    compose exec -T server python - <<'CHECK'
import json, pathlib, sys
folders = [path for path in pathlib.Path("/runs").iterdir() if path.is_dir()]
events = [json.loads(line) for line in (folders[0] / "events.jsonl").open()]
merges = [event for event in events if event["event"] == "merged"]
heard = {device for event in events if event["event"] == "profiled" for device in event["devices"]}
own = all("heldout_loss" in update for event in merges for update in event["updates"])
adapter = folders[0] / "adapter" / "adapter_model.safetensors"
print(f"test-docker: merges of {sorted({m['cluster'] for m in merges})}, devices {sorted(heard)}, "
      f"adapter {adapter.stat().st_size} bytes")
right = len(folders) == 1 and len({m["cluster"] for m in merges}) == 2 and len(heard) == 4 and own
sys.exit(0 if right else "test-docker: the run folder is not what it should be")
CHECK
}

refuse_a_stranger() {
    say "starting a node with a key that nobody registered"
    told=$(compose run --rm --no-deps -T --entrypoint sh node-1 -c '
        python -c "
from cryptography.hazmat.primitives import serialization as s
from cryptography.hazmat.primitives.asymmetric import ec
key = ec.generate_private_key(ec.SECP384R1())
form = s.Encoding.PEM, s.PrivateFormat.OpenSSH, s.NoEncryption()
open(\"/tmp/key\", \"wb\").write(key.private_bytes(*form))" &&
        timeout 60 flower-supernode --superlink superlink:8000 --root-certificates /site/ca.crt \
            --auth-supernode-private-key /tmp/key --host 127.0.0.1 --port 9094' 2>&1) || true
    case "$told" in
        *"Exit Code: 305"*) ;; # Flower's code for a node that the SuperLink does not let in
        *) fail "the stranger was not turned away: $told" ;;
    esac
}

survive_a_restart() {
    say "starting the SuperLink again: its nodes and the run's state are in its volume"
    compose restart superlink
    compose exec -T server python -m cli run --superlink superlink:8000 --root-certificates /tls/ca.crt \
        --timeout 900 conf/containers.toml merge.max-merges=2
}

start_engine
if ! docker compose version >/dev/null 2>&1; then need docker-compose docker-compose; fi
find_base_image
try_container
build
run
refuse_a_stranger
survive_a_restart
say "passed"
