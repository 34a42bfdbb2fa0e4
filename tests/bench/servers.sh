# What the benches share: programs, servers of their own in a folder that goes away, a clock. Sourced, not run.
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

# Runs a command; prints its wall time, and leaves it in `took`.
timed() { # NAME COMMAND...
  local name=$1; shift
  local before after
  before=$(date +%s.%N)
  "$@" >"$folder/out" 2>&1 || { tail -n 30 "$folder/out" >&2; return 1; }
  after=$(date +%s.%N)
  took=$(echo "$after - $before" | bc)
  printf '%-58s %8.1f s\n' "$name" "$took"
}
