# shellcheck shell=bash
# MariaDB from the system's packages, on a data directory of its own.
# shellcheck disable=SC2154

mariadb_prepare() {
  local dir=$state/mariadb
  keep_port "$dir/port"
  mariadb_conf >"$dir/my.cnf"
  cat >"$dir/init.sql" <<'SQL'
CREATE DATABASE IF NOT EXISTS headrace CHARACTER SET utf8mb4;
CREATE USER IF NOT EXISTS headrace@'%' IDENTIFIED BY 'headrace';
GRANT ALL PRIVILEGES ON *.* TO headrace@'%' WITH GRANT OPTION;
SQL
  [[ ! -d $dir/data/mysql ]] || return 0
  rm -rf "$dir/data.part"
  mariadb-install-db --no-defaults --datadir="$dir/data.part" --user="$(id -un)" \
    --auth-root-authentication-method=normal --skip-test-db \
    >"$(log_of mariadb)" 2>&1 9>&- </dev/null || {
    fail_with_log mariadb "could not create its data directory"
    return 1
  }
  mv "$dir/data.part" "$dir/data"
}

# A unix socket's path must stay under 108 bytes wherever the checkout lies, so
# the socket lives in a directory of its own under /tmp.
mariadb_socket_dir() {
  local file=$state/mariadb/socketdir
  [[ -s $file && -d $(cat "$file") ]] || mktemp -d /tmp/headrace-mariadb-XXXXXX >"$file"
  cat "$file"
}

mariadb_conf() {
  local dir=$state/mariadb
  cat <<CNF
[mariadbd]
datadir = $dir/data
socket = $(mariadb_socket_dir)/sock
pid-file = $dir/mariadbd.pid
init-file = $dir/init.sql
bind-address = 127.0.0.1
port = $(port_of mariadb)
skip-name-resolve
max_connections = 400
character-set-server = utf8mb4
innodb_buffer_pool_size = 256M
innodb_flush_log_at_trx_commit = 1
innodb_print_all_deadlocks = ON
default-time-zone = +00:00
CNF
}

# --no-defaults would also drop our own file; --defaults-file alone keeps the
# machine's settings out.
mariadb_launch() {
  launch mariadb "$(command -v mariadbd)" --defaults-file="$state/mariadb/my.cnf" --user="$(id -un)"
}

mariadb_ready() {
  [[ $(mariadb --no-defaults -h 127.0.0.1 -P "$(port_of mariadb)" -u headrace -pheadrace \
    --protocol=TCP --connect-timeout=5 -N -B -e 'SELECT 1' headrace) == 1 ]]
}

mariadb_env() {
  printf 'export HEADRACE_TEST_MARIADB=mysql://headrace:headrace@%s/headrace\n' "$(address mariadb)"
}
