#!/usr/bin/env bash
# The whole upgrade, on this machine: an Aptible-like PostgreSQL 15 with a realistic cluster in it, an 18 to move to,
# and a stand-in for the aptible command. Runs as root and as an ordinary user; leaves nothing running.
#
#   KEEP=1  leaves the servers running and says how to stop them
#   PGPLAN  the pgplan to use (default: built from this checkout)
set -euo pipefail
cd "$(dirname "$0")/../.."

source tests/demo/world.sh

step 'A rehearsal, against throwaway copies of both servers'
# A rehearsal opens no tunnel, so it is told where the servers are; their passwords are where libpq looks for them.
export PGPASSFILE=$folder/pgpass
(umask 077; printf '127.0.0.1:%s:*:aptible:%s\n' "$port_source" "$SOURCE_PASSWORD" "$port_target" "$TARGET_PASSWORD" >"$PGPASSFILE")
run "$PGPLAN" rehearse plans/aptible-upgrade.yaml --assume 1s --address "source=$SOURCE_URL" --address "target=$TARGET_URL"
step 'The plan, without touching anything, and how long it will take'
run "$PGPLAN" plan plans/aptible-upgrade.yaml
step 'The upgrade'
run "$PGPLAN" apply plans/aptible-upgrade.yaml --fresh --yes
step 'Afterwards'
run "$PGPLAN" status
echo "services:      $(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["apps"]["orders"]["services"])' "$folder/platform/state.json")"
echo "on the target: $(PGPASSWORD=$TARGET_PASSWORD "$postgres/18/bin/psql" -XAt -d "$TARGET_URL" -c \
  "SELECT (SELECT count(*) FROM shop.orders) || ' orders, ' || (SELECT count(*) FROM shop.event) || ' events; ' || split_part(version(), ' on ', 1)")"
status=0
cat <<TEXT

To look further:
  $PGPLAN log        every event of the run
  $PGPLAN status     the table above, with errors and their fixes when there are any
TEXT
if [[ ${KEEP:-} == 1 ]]; then
  echo "  PGPASSWORD=$SOURCE_PASSWORD $postgres/15/bin/psql $SOURCE_URL"
  echo "  PGPASSWORD=$TARGET_PASSWORD $postgres/18/bin/psql $TARGET_URL"
else
  echo '  KEEP=1 make demo   leaves both servers running'
fi
