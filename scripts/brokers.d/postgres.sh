# shellcheck shell=bash
# PostgreSQL from the system's packages, in a cluster of its own.
# shellcheck disable=SC2154

# postgres_bin prints the newest installed version's directory of programs.
postgres_bin() {
  local bin
  bin=$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -t / -k 5 -V | tail -n 1)
  [[ ! -x $bin/initdb ]] || printf '%s' "$bin"
}

# owner_of_cluster prints the user that runs the cluster: Postgres refuses to run
# as root. Once created, a cluster stays with its user, even when the package's
# own user appears later.
owner_of_cluster() {
  if [[ -s $state/postgres/datadir && -d $(postgres_data) ]]; then
    stat -c %U "$(postgres_data)"
  elif ((EUID != 0)); then
    id -un
  elif id postgres >/dev/null 2>&1; then
    echo postgres
  else
    echo nobody
  fi
}

# as_owner fills $as_postgres with the words before a command that run it as that
# user; setpriv does it without a process in between.
as_owner() {
  local owner
  owner=$(owner_of_cluster)
  as_postgres=()
  ((EUID != 0)) || as_postgres=(setpriv "--reuid=$owner" "--regid=$(id -g "$owner")" --clear-groups --)
}

postgres_data() { cat "$state/postgres/datadir"; }

# place_data picks the data directory. Root's checkout may lie where the owner
# can't go (a home with mode 700): then it is a directory under /tmp, noted in
# the state all the same.
place_data() {
  local dir=$state/postgres data
  as_owner
  [[ ! -s $dir/datadir || ! -d $(postgres_data) ]] || return 0
  data=$dir/data
  if ! "${as_postgres[@]}" test -x "$dir"; then
    data=$(mktemp -d /tmp/headrace-postgres-XXXXXX)
  fi
  mkdir -p "$data"
  chmod 700 "$data"
  ((EUID != 0)) || chown "$(owner_of_cluster)" "$data"
  printf '%s\n' "$data" >"$dir/datadir"
}

postgres_prepare() {
  local dir=$state/postgres
  keep_port "$dir/port"
  place_data
  forget_dead_postmaster
  [[ ! -s $(postgres_data)/PG_VERSION ]] || return 0
  (cd / && "${as_postgres[@]}" "$(postgres_bin)/initdb" -D "$(postgres_data)" -U headrace -A trust \
    --encoding=UTF8 --locale=C.UTF-8 --no-sync) >"$(log_of postgres)" 2>&1 9>&- </dev/null || {
    fail_with_log postgres "could not create its cluster"
    rm -rf "$(postgres_data)" "$dir/datadir"
    return 1
  }
}

# forget_dead_postmaster removes the lock file of a postmaster that has ended.
# Postgres does that itself, except while the dead process waits to be reaped by
# its parent or another process has its id. Orphaned backends are still noticed,
# by the shared memory that they hold.
forget_dead_postmaster() {
  local lock pid
  lock=$(postgres_data)/postmaster.pid
  pid=$(head -n 1 "$lock" 2>/dev/null) || return 0
  if ! birth "$pid" >/dev/null || ! tr '\0' '\n' <"/proc/$pid/cmdline" | grep -xF "$(postgres_data)" >/dev/null; then
    rm -f "$lock"
  fi
}

# No unix socket: its path would have to stay under 108 bytes wherever the
# checkout lies, and the tests connect over TCP anyway.
postgres_launch() {
  launch postgres "${as_postgres[@]}" "$(postgres_bin)/postgres" -D "$(postgres_data)" \
    -c listen_addresses=127.0.0.1 -c port="$(port_of postgres)" -c unix_socket_directories= \
    -c fsync=on -c max_connections=400 -c shared_buffers=256MB \
    -c wal_level=logical -c max_wal_senders=40 -c max_replication_slots=40 \
    -c timezone=UTC -c log_lock_waits=on
}

postgres_sql() {
  "$(postgres_bin)/psql" -X -q -t -A -v ON_ERROR_STOP=1 \
    "postgres://headrace@$(address postgres)/$1?connect_timeout=5" -c "$2"
}

postgres_ready() {
  [[ $(postgres_sql headrace 'SELECT 1') == 1 ]] && return
  # The first time there is no database of our own yet.
  postgres_sql postgres 'CREATE DATABASE headrace' && [[ $(postgres_sql headrace 'SELECT 1') == 1 ]]
}

postgres_env() {
  printf "export HEADRACE_TEST_POSTGRES='postgres://headrace@%s/headrace?sslmode=disable'\n" "$(address postgres)"
}
