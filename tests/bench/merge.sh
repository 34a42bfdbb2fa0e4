#!/usr/bin/env bash
# Measures a merge of shards against the same inserts in one transaction of psql: builder_originsrv as Chef Habitat's
# Builder has it, 128 shards with 17 tables each, on one server of 18 on this machine.
#
#   ROWS=1000000 SHARDS=128   size of the database (about so many rows)
#   ROUNDS=2                  how often each way is taken; every figure is shown
#
# psql only inserts. pgplan looks for everything that is in the way before, and proves afterwards that all rows arrived.
# Nothing here asserts: figures go to whoever reads them.
set -euo pipefail
cd "$(dirname "$0")/../.."
rows=${ROWS:-1000000} shards=${SHARDS:-128} rounds=${ROUNDS:-2}
source tests/bench/servers.sh

# A full shard has 5.6 rows for each package; every eighth is empty and one is ten times as large.
packages=$((rows * 10 / 56 / (shards - shards / 8 + 9)))
step "The shards: $shards, about $rows rows"
serve source 18
sql() { "$bin/psql" -XAtq -v ON_ERROR_STOP=1 -d "$url_source/$1" "${@:2}"; }
sql postgres -c 'CREATE DATABASE shards'
sql shards -v shards="$shards" -v rows="$((packages > 20 ? packages : 20))" -f tests/shards/originsrv.sql >"$folder/out"
sql shards -c 'VACUUM ANALYZE'
sql shards -c "SELECT pg_size_pretty(pg_database_size('shards'))"

# In the order of their foreign keys; each shard has a type of its own for one column.
tables='origins origin_secrets origin_secret_keys origin_public_keys origin_public_encryption_keys origin_private_encryption_keys
  origin_projects origin_integrations origin_project_integrations origin_packages origin_members origin_invitations origin_channels
  origin_channel_packages audit_package_group audit_package audit'
{
  echo 'BEGIN;'
  for table in $tables; do
    what='*'
    [[ $table != origin_integrations ]] || what='id, origin, integration::text::public.integration_kind, name, body'
    for ((n = 0; n < shards; n++)); do echo "INSERT INTO public.$table SELECT $what FROM shard_$n.$table;"; done
  done
  echo 'INSERT INTO public.flags VALUES (true); COMMIT;'
} >"$folder/inserts.sql"
cat >"$folder/merge.yaml" <<YAML
version: 1
databases:
  db: { url: "$url_source/merged" }
steps:
  - merge_shards:
      from: { database: db, schemas: shard_0..shard_$((shards - 1)) }
      into: { database: db }
      skip: [__diesel_schema_migrations]
      complete: { run: INSERT INTO flags VALUES (true) }
YAML

fresh() {
  sql postgres -c 'SET client_min_messages = warning' -c 'DROP DATABASE IF EXISTS merged' -c 'CREATE DATABASE merged TEMPLATE shards' -c CHECKPOINT
  rm -rf "$folder/state"
}
merge() { "$pgplan" --state "$folder/state" "$1" "$folder/merge.yaml"; }

for round in $(seq "$rounds"); do
  step "The merge, round $round ($(uptime | sed 's/.*load/load/'))"
  fresh; timed 'psql: inserts in one transaction' sql merged -f "$folder/inserts.sql"; inserts=$took
  sql merged -c "SELECT sum((xpath('/row/c/text()', query_to_xml('SELECT count(*) AS c FROM public.' || relname, false, true, '')))[1]::text::bigint) || ' rows' \
    FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname !~ '^(flags|__diesel)'"
  fresh; timed 'pgplan plan: the look alone' merge plan
  timed 'pgplan apply: looked at, merged and proved' merge apply
  printf '%-58s %8.2f\n' 'pgplan apply / psql' "$(echo "scale=4; $took / $inserts" | bc)"
  tail -n 3 "$folder/out"
done
