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

source tests/bench/servers.sh

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
