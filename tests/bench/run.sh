#!/usr/bin/env bash
# Measures pgplan against what people use today, in one run on this machine: PostgreSQL 15.18 to 18 over the loopback.
#
#   SCALE=40 ROWS=2000000   size of the database (the default makes about 1.4 GB; a tenth: SCALE=4 ROWS=200000)
#   ROUNDS=2                how often each way is taken; every figure is shown
#
# The source is 15.18 because 15.20 stamps its columns with an option that makes pg_restore leave tables out; pgplan
# moves both. Nothing here asserts: figures go to whoever reads them.
set -euo pipefail
cd "$(dirname "$0")/../.."
scale=${SCALE:-40} rows=${ROWS:-2000000} rounds=${ROUNDS:-2}

step() { printf '\n== %s\n' "$*"; }
step 'Programs'
tests/setup/install-postgres.sh 15.18 18
postgres=$(tests/setup/install-postgres.sh --print-dir)
bin=$postgres/18/bin
cargo build --quiet --release --package pgplan
pgplan=$(realpath "${CARGO_TARGET_DIR:-target}/release/pgplan")
export PGPLAN_CACHE=${postgres%/postgres}

folder=$(mktemp -d /tmp/pgplan-bench.XXXXXX)
as=()
if [[ $(id -u) == 0 ]]; then
  user=$(id -un postgres 2>/dev/null || echo nobody)
  as=(setpriv --reuid "$user" --regid "$(id -g "$user")" --clear-groups)
  chmod 711 "$folder"
fi
pids=()
finish() {
  for pid in "${pids[@]}"; do kill -INT "$pid" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done; done
  rm -rf "$folder"
}
trap finish EXIT

# Starts a server; sets url_$1 and pid_$1.
serve() { # NAME VERSION
  local home=$folder/$1 port pid
  install -d -m 700 ${user:+-o "$user"} "$home"
  (cd / && "${as[@]}" "$postgres/$2/bin/initdb" -D "$home/data" -U postgres -A trust -E UTF8 --locale=C.UTF-8 -N) >"$folder/$1.initdb"
  for port in $(shuf -i 20000-32000 -n 5); do
    (cd / && exec "${as[@]}" "$postgres/$2/bin/postgres" -D "$home/data" -p "$port" -c listen_addresses=127.0.0.1 -k "$home" \
      -c shared_buffers=1GB -c max_wal_size=8GB -c maintenance_work_mem=512MB -c max_locks_per_transaction=1024) >>"$folder/$1.log" 2>&1 &
    pid=$!
    while kill -0 "$pid" 2>/dev/null; do
      if [[ $(sed -n 8p "$home/data/postmaster.pid" 2>/dev/null) == ready* ]]; then
        pids+=("$pid")
        printf -v "url_$1" 'postgresql://postgres@127.0.0.1:%s' "$port"
        printf -v "pid_$1" %s "$pid"
        return
      fi
      sleep 0.05
    done
  done
  cat "$folder/$1.log" >&2
  return 1
}
stop() { # NAME
  local name=pid_$1; kill -INT "${!name}"; while kill -0 "${!name}" 2>/dev/null; do sleep 0.05; done
  rm -rf "${folder:?}/$1"
}

# Runs a command; prints its wall time and the peak memory of its largest process.
timed() { # NAME COMMAND...
  local name=$1; shift
  local before after
  before=$(date +%s.%N)
  "$@" >"$folder/out" 2>&1 || { tail -n 30 "$folder/out" >&2; return 1; }
  after=$(date +%s.%N)
  printf '%-58s %8.1f s\n' "$name" "$(echo "$after - $before" | bc)"
}

step 'A plan of 10,000 steps'
{
  printf 'version: 1\nvars: { app: orders }\nsteps:\n'
  for i in $(seq 10000); do printf '  - { id: s%s, command: [echo, "${{ vars.app }} %s"] }\n' "$i" "$i"; done
} >"$folder/steps.yaml"
timed 'pgplan check' "$pgplan" check "$folder/steps.yaml"

step "The database: pgbench -s $scale, $rows wide rows, 300 small tables"
serve source 15.18
"$bin/psql" -Xq "$url_source/postgres" -c 'CREATE DATABASE db'
"$bin/pgbench" -i -q -s "$scale" "$url_source/db" >"$folder/out" 2>&1
"$bin/psql" -Xq -v rows="$rows" "$url_source/db" -f tests/bench/load.sql
"$bin/psql" -XAtq "$url_source/db" -c "SELECT pg_size_pretty(pg_database_size('db'))"

pipe() {
  "$bin/pg_dumpall" -d "$url_source/postgres" | grep -E -i -v '^(CREATE|ALTER) ROLE postgres' | "$bin/psql" -Xq "$url_target/postgres" -v ON_ERROR_STOP=1
  "$bin/vacuumdb" -q -z "$url_target/db"
}
directory() {
  "$bin/pg_dump" -Fd -j2 -Z0 -f "$folder/dump" "$url_source/db"
  "$bin/pg_restore" -j2 -d "$url_target/db" "$folder/dump"
  "$bin/vacuumdb" -q -j2 -z "$url_target/db"
  rm -rf "$folder/dump"
}
plan() { # DUMP RESTORE VERIFY
  cat >"$folder/plan.yaml" <<YAML
version: 1
databases:
  source: { url: "$url_source/db" }
  target: { url: "$url_target/db" }
steps:
  - dump: $1
  - filter: { no_owner: true }
  - restore: $2
$3
  - vacuum: { database: target, databases: [db], analyze: true, jobs: 2 }
YAML
  rm -rf "$folder/state"
  "$pgplan" --state "$folder/state" apply --progress plain "$folder/plan.yaml"
}
verify='  - verify: { left: source, right: target, databases: [db], jobs: 2 }'

for round in $(seq "$rounds"); do
  step "The move to 18, round $round"
  serve target 18; timed 'pg_dumpall | grep | psql; vacuumdb -z' pipe; stop target
  serve target 18; "$bin/psql" -Xq "$url_target/postgres" -c 'CREATE DATABASE db'
  timed 'pg_dump -Fd -j2; pg_restore -j2; vacuumdb -j2 -z' directory; stop target
  serve target 18; "$bin/psql" -Xq "$url_target/postgres" -c 'CREATE DATABASE db'
  timed 'pgplan: directory with 2 jobs, verified' plan '{ from: source, format: directory, jobs: 2 }' '{ into: target, jobs: 2 }' "$verify"; stop target
  serve target 18; "$bin/psql" -Xq "$url_target/postgres" -c 'CREATE DATABASE db'
  timed 'pgplan: directory with 2 jobs, not verified' plan '{ from: source, format: directory, jobs: 2 }' '{ into: target, jobs: 2 }' ''; stop target
done

step 'The filter, over the dump of the whole server'
serve target 18; "$bin/psql" -Xq "$url_target/postgres" -c 'CREATE DATABASE db'
"$bin/pg_dumpall" -d "$url_source/postgres" >"$folder/all.sql"
ls -l "$folder/all.sql" | awk '{ print $5 " bytes of SQL" }'
timed "grep -E -i -v 'ALTER ROLE aptible .*PASSWORD'" sh -c "grep -E -i -v 'ALTER ROLE aptible .*PASSWORD' '$folder/all.sql' >/dev/null"
cat >"$folder/filter.yaml" <<YAML
version: 1
steps:
  - filter: { from: { file: "$folder/all.sql" }, drop_passwords_of: [aptible] }
YAML
timed 'pgplan: filter' "$pgplan" --state "$folder/filter-state" apply --progress plain "$folder/filter.yaml"
if command -v /usr/bin/time >/dev/null; then
  /usr/bin/time -f 'pgplan: peak memory %M KiB' "$pgplan" --state "$folder/filter-state" apply --progress none "$folder/filter.yaml" 2>&1 | tail -n 1
fi
