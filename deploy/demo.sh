#!/usr/bin/env bash
# A federation of real processes on this machine: a SuperLink and three SuperNodes, one of them
# malicious, with TLS and SuperNode authentication. Nothing reaches beyond the loopback; everything
# it writes lies in $WORK, and everything it starts is stopped by its own process id.
#
#   deploy/demo.sh                   runs this project's app
#   APP=FOLDER deploy/demo.sh        runs another app with the keys `scenario` and `out`
#   CRASH=1 deploy/demo.sh           kills the SuperLink after the first round, and goes on
#
# docs/deployment.md explains each command; tests/test_deployment.py holds the two together.
set -euo pipefail
cd "$(dirname "$0")/.."

APP=${APP:-.}
RUN_CONFIG=${RUN_CONFIG-'scenario="configs/scenarios/deployment.yaml"'}
PORT=${PORT:-18443}
CLIENT_PORT=$((PORT + 5))
WORK=$(realpath -m "${WORK:-results/deploy-demo/$(date +%Y%m%d-%H%M%S)}")
PATH=$(realpath -s .venv/bin):$PATH

export FLWR_HOME="$WORK/flwr-home"
export FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1

fail() { echo "deploy-demo: $*; the logs are in $WORK" >&2; exit 1; }

# A process of its own session: its children can be found again after it has ended.
start() {
  local log=$1
  shift
  setsid "$@" >"$WORK/$log.log" 2>&1 &
  pids+=($!)
}

pids=()
stop() {
  local pid
  for pid in "${pids[@]}"; do kill -TERM -- "-$pid" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do
    for _ in $(seq 200); do
      kill -0 -- "-$pid" 2>/dev/null || break
      sleep 0.1
    done
    kill -KILL -- "-$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
  pids=()
}
trap stop EXIT

taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# within SECONDS COMMAND...: true as soon as the command succeeds.
within() {
  local seconds=$1 end
  shift
  end=$((SECONDS + seconds))
  until "$@"; do
    ((SECONDS < end)) || return 1
    sleep 0.5
  done
}

# status PORT PATH: what a POST there is answered with.
status() {
  python - "$1" "$2" "$WORK/certificates/ca.crt" <<'PYTHON'
import ssl, sys, urllib.error, urllib.request as r
port, path, authority = sys.argv[1:]
data = None if path == "/health" else b""
try:
    url = f"https://127.0.0.1:{port}{path}"
    print(r.urlopen(r.Request(url, data), context=ssl.create_default_context(cafile=authority)).status)
except urllib.error.HTTPError as error:
    print(error.code)
except OSError:
    print("none")
PYTHON
}

healthy() { [[ $(status "$1" /health) == 200 ]]; }

superlink() {
  start superlink flower-superlink --host 127.0.0.1 --port "$PORT" \
    --ssl-ca-certfile "$WORK/certificates/ca.crt" \
    --ssl-certfile "$WORK/certificates/server.crt" \
    --ssl-keyfile "$WORK/certificates/server.key" \
    --database "$WORK/superlink.db" \
    --enable-supernode-auth --disable-runtime-dependency-installation
  superlink_pid=${pids[-1]}
  within 60 healthy "$PORT" || fail "the SuperLink does not get healthy"
}

first_round_is_kept() { [[ -s "$WORK/results/checkpoint" ]]; }

online() {
  [[ $(flwr supernode list deployment --format json | grep -c '"status": "online"') == 3 ]]
}

for port in "$PORT" $((PORT + 1)) $((PORT + 2)) $((PORT + 3)) $((PORT + 4)) "$CLIENT_PORT"; do
  ! taken "$port" || fail "port $port of 127.0.0.1 is taken; choose another with PORT=..."
done
mkdir -p "$FLWR_HOME"

echo "== certificates and keys"
python deploy/certificates.py "$WORK/certificates" 3
cat >"$FLWR_HOME/config.toml" <<TOML
[superlink]
default = "deployment"

[superlink.deployment]
address = "127.0.0.1:$PORT"
root-certificates = "$WORK/certificates/ca.crt"
TOML

echo "== SuperLink on 127.0.0.1:$PORT, for clients on 127.0.0.1:$CLIENT_PORT"
superlink
start client-gate python deploy/client_gate.py 127.0.0.1 "$CLIENT_PORT" "$PORT" "$WORK/certificates"
within 60 healthy "$CLIENT_PORT" || fail "the gate for clients does not get healthy"
for path in /v1/control/list-runs /v1/control/register-node /v1/runtime/pull-messages /docs; do
  [[ $(status "$CLIENT_PORT" "$path") == 404 ]] || fail "clients reach $path"
done

echo "== three SuperNodes"
for node in 0 1 2; do
  flwr supernode register "$WORK/certificates/node-$node.pub" deployment
  start "supernode-$node" flower-supernode --superlink "127.0.0.1:$CLIENT_PORT" \
    --root-certificates "$WORK/certificates/ca.crt" \
    --auth-supernode-private-key "$WORK/certificates/node-$node" \
    --port $((PORT + 1 + node)) --node-config "partition-id=$node num-partitions=3"
done
within 90 online || fail "the SuperNodes do not get online"

echo "== a SuperNode that nobody registered"
if timeout 60 flower-supernode --superlink "127.0.0.1:$CLIENT_PORT" \
  --root-certificates "$WORK/certificates/ca.crt" \
  --auth-supernode-private-key "$WORK/certificates/stranger" \
  --port $((PORT + 4)) --node-config "partition-id=0 num-partitions=3" \
  >"$WORK/stranger.log" 2>&1; then
  fail "the stranger was let in"
elif [[ $? == 124 ]]; then
  fail "the stranger was not refused"
fi
echo "refused"

if [[ -n ${CRASH:-} ]]; then
  echo "== a run whose SuperLink is killed after the first round"
  flwr run "$APP" deployment -c "$RUN_CONFIG out=\"$WORK/results\""
  within 300 first_round_is_kept || fail "the first round does not end"
  kill -KILL -- "-$superlink_pid"
  while kill -0 -- "-$superlink_pid" 2>/dev/null; do sleep 0.1; done
  superlink
  within 120 online || fail "the SuperNodes do not come back"
  echo "come back without registering again"
  flwr run "$APP" deployment --stream -c "$RUN_CONFIG resume=\"$WORK/results\""
else
  echo "== the run"
  flwr run "$APP" deployment --stream -c "$RUN_CONFIG out=\"$WORK/results\""
fi
# A failed run lets the command above succeed too.
flwr list deployment --format json >"$WORK/runs.json"
grep -q '"status": "finished:completed"' "$WORK/runs.json" || fail "the run failed"

echo "== everything is stopped"
stop
for port in "$PORT" $((PORT + 1)) $((PORT + 2)) $((PORT + 3)) "$CLIENT_PORT"; do
  ! taken "$port" || fail "port $port is still taken"
done

fl-defense show "$WORK/results"
