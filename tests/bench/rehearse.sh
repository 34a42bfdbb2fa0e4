#!/usr/bin/env bash
# Measures how well a rehearsal predicts the downtime: the plan of the demo, on the demo's servers with fsync on, rehearsed
# and then applied to a new, empty target.
#
#   ROUNDS=3       how many pairs
#   ROWS=500000    wide rows beside the demo's own (350 MB in all)
#
# Nothing here asserts: figures go to whoever reads them.
set -euo pipefail
cd "$(dirname "$0")/../.."
rounds=${ROUNDS:-3} rows=${ROWS:-500000} FSYNC=on
source tests/demo/world.sh
pgplan() { "$PGPLAN" --state "$folder/state" "$@"; }

step "The database: $rows wide rows more"
PGPASSWORD=$SOURCE_PASSWORD "$postgres/15/bin/psql" -Xq -v ON_ERROR_STOP=1 -v rows="$rows" -d "$SOURCE_URL" -f tests/bench/load.sql
PGPASSWORD=$SOURCE_PASSWORD "$postgres/15/bin/psql" -XAtq -d "$SOURCE_URL" -c VACUUM -c CHECKPOINT \
  -c "SELECT pg_size_pretty(sum(pg_database_size(oid))) FROM pg_database"

for round in $(seq "$rounds"); do
  step "Pair $round ($(uptime | sed 's/.*load/load/'))"
  platform_as_at_first
  PGPASSWORD=$SOURCE_PASSWORD pgplan rehearse plans/aptible-upgrade.yaml --assume 0s --address "source=$SOURCE_URL" --empty target >"$folder/rehearsal" 2>&1 ||
    { cat "$folder/rehearsal" >&2; exit 1; }
  grep -i 'downtime' "$folder/rehearsal"
  pgplan apply plans/aptible-upgrade.yaml --fresh --yes >"$folder/apply" 2>&1 || { cat "$folder/apply" >&2; exit 1; }
  grep -i 'downtime' "$folder/apply"
  if ((round < rounds)); then
    stop target
    serve target 18 "$TARGET_PASSWORD"
    TARGET_URL=postgresql://aptible@127.0.0.1:$port_target/db
  fi
done
status=0
