# The world of the demo: an Aptible-like PostgreSQL 15 with a realistic cluster in it, an 18 to move to, and a stand-in for
# the aptible command. Leaves nothing running. Sourced, not run.
#
#   PGPLAN   the pgplan to use (default: built from this checkout)
#   FSYNC    on or off (default: off)
step() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
run() { printf '$ %s\n' "$*"; "$@"; }

step 'Programs'
tests/setup/install-postgres.sh 15 18
postgres=$(tests/setup/install-postgres.sh --print-dir)
if [[ -z ${PGPLAN:-} ]]; then
  cargo build --quiet --package pgplan --features stand-ins
  PGPLAN=${CARGO_TARGET_DIR:-target}/debug/pgplan
fi
PGPLAN=$(realpath "$PGPLAN")
stand_ins=$(dirname "$PGPLAN")/pgplan-stand-ins
[[ -x $stand_ins ]] || { echo "error: $stand_ins is missing: cargo build --package pgplan --features stand-ins" >&2; exit 1; }

# The servers run as another user when this is root; their folders are that user's alone. A socket's path is short.
folder=$(mktemp -d /tmp/pgplan-demo.XXXXXX)
as=()
if [[ $(id -u) == 0 ]]; then
  user=$(id -un postgres 2>/dev/null || echo nobody)
  as=(setpriv --reuid "$user" --regid "$(id -g "$user")" --clear-groups)
  chmod 711 "$folder"
fi
pids=()
finish() {
  if [[ ${KEEP:-} == 1 && ${#pids[@]} -gt 0 ]]; then
    printf '\nThe servers are still running. To end: kill -INT %s; rm -rf %s\n' "${pids[*]}" "$folder"
    return
  fi
  for pid in "${pids[@]}"; do kill -INT "$pid" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done; done
  if [[ $status == 0 ]]; then rm -rf "$folder"; else echo "The servers' logs are in $folder" >&2; fi
}
status=1
trap finish EXIT

# Starts a server with the roles and the database that Aptible makes; sets port_$1 and pid_$1.
serve() { # NAME VERSION PASSWORD
  local home=$folder/$1 bin=$postgres/$2/bin port pid
  install -d -m 700 ${user:+-o "$user"} "$home"
  printf '%s' "$3" >"$folder/password" && chmod 644 "$folder/password"
  (cd / && "${as[@]}" "$bin/initdb" -D "$home/data" -U aptible --pwfile "$folder/password" -A scram-sha-256 -E UTF8 \
    --locale=C.UTF-8 -N) >"$folder/$1.initdb" || { cat "$folder/$1.initdb" >&2; return 1; }
  rm "$folder/password"
  for port in $(shuf -i 20000-32000 -n 5); do
    (cd / && exec "${as[@]}" "$bin/postgres" -D "$home/data" -p "$port" -c listen_addresses=127.0.0.1 -k "$home" -c fsync="${FSYNC:-off}" \
      -c wal_level=logical -c jit=off -c shared_buffers=128MB -c max_wal_size=2GB -c max_locks_per_transaction=256) >>"$folder/$1.log" 2>&1 &
    pid=$!
    while kill -0 "$pid" 2>/dev/null; do
      if [[ $(sed -n 8p "$home/data/postmaster.pid" 2>/dev/null) == ready* ]]; then
        pids+=("$pid")
        printf -v "port_$1" %s "$port"
        printf -v "pid_$1" %s "$pid"
        PGPASSWORD=$3 "$postgres/18/bin/psql" -XqAt -v ON_ERROR_STOP=1 -h 127.0.0.1 -p "$port" -U aptible -d postgres \
          -c "CREATE ROLE postgres SUPERUSER LOGIN PASSWORD '$3'" -c 'CREATE DATABASE db'
        return
      fi
      sleep 0.05
    done
  done
  cat "$folder/$1.log" >&2
  return 1
}

# Ends a server and removes what it had.
stop() { # NAME
  local pid=pid_$1
  kill -INT "${!pid}"
  while kill -0 "${!pid}" 2>/dev/null; do sleep 0.05; done
  local left=()
  for each in "${pids[@]}"; do [[ $each == "${!pid}" ]] || left+=("$each"); done
  pids=("${left[@]}")
  rm -rf "${folder:?}/$1"
}

export SOURCE_PASSWORD=old-demo-password TARGET_PASSWORD=new-demo-password
step 'Servers'
serve source 15 "$SOURCE_PASSWORD"
serve target 18 "$TARGET_PASSWORD"
export SOURCE_URL=postgresql://aptible@127.0.0.1:$port_source/db TARGET_URL=postgresql://aptible@127.0.0.1:$port_target/db
with_password() { printf '%s' "${1/aptible@/aptible:$2@}"; }
echo "PostgreSQL 15 to leave: $SOURCE_URL"
echo "PostgreSQL 18 to reach: $TARGET_URL"
PGPASSWORD=$SOURCE_PASSWORD "$postgres/15/bin/psql" -Xq -d "$SOURCE_URL" -f tests/demo/load.sql >/dev/null
PGPASSWORD=$SOURCE_PASSWORD "$postgres/15/bin/psql" -XAtq -d "$SOURCE_URL" -c \
  "SELECT datname || ': ' || pg_size_pretty(pg_database_size(oid)) FROM pg_database WHERE NOT datistemplate ORDER BY 1"

# The platform: an application with two services, and both databases behind tunnels.
mkdir "$folder/bin" "$folder/platform"
ln -s "$stand_ins" "$folder/bin/aptible"
platform_as_at_first() {
  cat >"$folder/platform/state.json" <<JSON
{ "apps": { "orders": { "environment": "production", "services": { "cmd": 2, "worker": 3 },
                        "config": { "DB_URL": "$(with_password "$SOURCE_URL" "$SOURCE_PASSWORD")" } } },
  "databases": {
    "orders-15": { "environment": "production", "version": "15", "url": "$(with_password "$SOURCE_URL" "$SOURCE_PASSWORD")" },
    "orders-18": { "environment": "production", "version": "18", "url": "$(with_password "$TARGET_URL" "$TARGET_PASSWORD")" } } }
JSON
}
platform_as_at_first
export PGPLAN_FAKE_STATE=$folder/platform PATH=$folder/bin:$PATH PGPLAN_CACHE=${postgres%/postgres}
export APP=orders ENVIRONMENT=production SOURCE_HANDLE=orders-15 TARGET_HANDLE=orders-18

