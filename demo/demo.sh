#!/usr/bin/env bash
# A guided batch on a real daemon: priorities, a retry, a time limit, a live log, dependencies, status, a clean stop.
# Everything happens in a temporary directory; the results of the batch are compared with the same computed directly.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
home=$(mktemp -d /tmp/stoker-demo.XXXXXX)
export STOKER_SOCKET=$home/stoker.sock
daemon=

finish() {
  [ -z "$daemon" ] || kill "$daemon" 2>/dev/null || true
  wait
  rm -rf "$home"
}
trap finish EXIT

bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'
[ -t 1 ] || bold='' dim='' plain=''
say() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
show() {
  printf '%s$ %s%s\n' "$dim" "${*@Q}" "$plain" | sed "s/'\([a-zA-Z0-9=_.:/-]*\)'/\1/g"
  "$@"
}

say "1. A daemon, with its state in $home"
show_daemon="stokerd --config demo/stoker.toml --state-dir \$home/state"
printf '%s$ %s &%s\n' "$dim" "$show_daemon" "$plain"
stokerd --config "$here/stoker.toml" --state-dir "$home/state" 2>"$home/daemon.log" &
daemon=$!
until stoker status >/dev/null 2>&1; do
  kill -0 "$daemon" 2>/dev/null || { cat "$home/daemon.log"; exit 1; }
  sleep 0.1
done
echo "ready, pid $daemon"

say "2. A batch: the SHA-256 of 300 files of Python's standard library, in a queue of class low"
python3 - "$home" <<'PY'
import json, pathlib, sys, sysconfig
files = sorted(pathlib.Path(sysconfig.get_path("stdlib")).rglob("*.py"))[:300]
home = pathlib.Path(sys.argv[1])
home.joinpath("files").write_text("".join(f"{file}\n" for file in files))
specs = [{"command": "sha256sum", "args": [str(file)], "queue": "checksums"} for file in files]
home.joinpath("jobs.ndjson").write_text("".join(json.dumps(spec) + "\n" for spec in specs))
PY
show stoker submit --batch "$home/jobs.ndjson" >"$home/ids"
sed -n '1p' "$home/ids"
echo "$(($(grep -c '^[0-9]' "$home/ids"))) jobs accepted, each on disk before it was answered"

say "3. Something urgent does not wait for the batch"
show stoker run --priority 10 --queue checksums -- echo "I went first"
stoker status | sed '/^$/,$d'

say "4. A job that fails twice before it succeeds"
cat >"$home/flaky.sh" <<'SH'
echo "attempt $STOKER_ATTEMPT"
[ "$STOKER_ATTEMPT" -ge 3 ] || { echo "the server is not there yet" >&2; exit 75; }
echo "uploaded"
SH
show stoker run --max-attempts 5 --base-delay 300ms -- sh "$home/flaky.sh"

say "5. A job that ignores SIGTERM meets its time limit, with everything it started"
status=0
show stoker run --timeout 1s -- sh -c 'trap "" TERM; echo "you cannot stop me"; sleep 600 & sleep 600; wait' || status=$?
echo "exit code $status"

say "6. A log, followed while the job writes it"
show stoker run -- sh -c 'for part in 1 2 3 4 5; do echo "encoding part $part of 5"; sleep 0.4; done'

say "7. A job that waits for another, and can say so"
build=$(stoker submit -- sh -c 'sleep 2; echo built')
deploy=$(stoker submit --after "$build" -- echo deployed)
show stoker why "$deploy"
show stoker wait "$build" "$deploy"
show stoker logs "$deploy"

say "8. The batch, compared with the same computed directly"
grep -o '^[0-9]*' "$home/ids" | xargs stoker wait >/dev/null
grep -o '^[0-9]*' "$home/ids" | xargs -n 1 stoker logs | sort >"$home/by-stoker"
tr '\n' '\0' <"$home/files" | xargs -0 sha256sum | sort >"$home/directly"
cmp "$home/by-stoker" "$home/directly"
echo "$(wc -l <"$home/directly") of $(wc -l <"$home/files") checksums are the same, none missing, none twice"

say "9. What the daemon says about itself"
show stoker status
show stoker history "$build"

say "10. A clean stop"
show kill -TERM "$daemon"
wait "$daemon" && echo "stokerd ended with $?"
daemon=
printf 'its log: %s lines of JSON, the last one\n' "$(wc -l <"$home/daemon.log")"
tail -n 1 "$home/daemon.log"
