# shellcheck shell=bash
# The Debian packages whose programs the brokers need.
# shellcheck disable=SC2154

# missing_packages NAME... prints the packages to install, one a line.
missing_packages() {
  local name
  for name in "$@"; do
    case $name in
      kafka | sqs)
        command -v java >/dev/null || echo default-jre-headless
        jars_present "$name" || command -v mvn >/dev/null || echo maven
        command -v curl >/dev/null || echo curl
        ;;
      postgres) [[ -n $(postgres_bin) ]] || echo postgresql ;;
      # The -core packages hold the programs without a service that starts by itself.
      mariadb)
        command -v mariadbd >/dev/null || echo mariadb-server-core
        command -v mariadb >/dev/null || echo mariadb-client-core
        ;;
    esac
  done | sort -u
}

require_packages() {
  local missing install
  mapfile -t missing < <(missing_packages "$@")
  ((${#missing[@]})) || return 0
  install="apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
  command -v apt-get >/dev/null || die "missing, and no apt-get to install them with: ${missing[*]}"
  ((EUID == 0)) || die "missing packages; install them as root: $install"
  say "installing ${missing[*]}"
  (
    # Two checkouts may get here at once; apt's own lock doesn't cover the update.
    exec 8>/run/headrace-apt.lock
    flock 8
    export DEBIAN_FRONTEND=noninteractive
    apt-get -q -o Acquire::Retries=3 update
    apt-get -q -y -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 \
      install --no-install-recommends "${missing[@]}"
  ) >"$state/apt.log" 2>&1 </dev/null || {
    tail -n 30 "$state/apt.log" >&2
    die "could not install ${missing[*]}"
  }
}
