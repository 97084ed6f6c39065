# shellcheck shell=bash
# One process per broker: started detached, remembered, found again, ended.
# Sourced by scripts/brokers, which sets $state.
# shellcheck disable=SC2154

log_of() { printf '%s/%s/log' "$state" "$1"; }
port_of() { cat "$state/$1/port"; }
address() { printf '127.0.0.1:%s' "$(port_of "$1")"; }
pid_of() { local pid _; read -r pid _ <"$state/$1/pid" && printf '%s' "$pid"; }

# birth prints what tells a process from every other one that ever had its id:
# the boot and the tick of that boot at which it started. Zombies count as gone.
# It reads by read: bash ends the whole shell, silently, when the file of a $(<file)
# is missing, which it is once the process has been reaped.
birth() {
  local stat fields
  { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 1
  read -ra fields <<<"${stat##*) }"
  [[ ${fields[0]} != [ZX] ]] || return 1
  printf '%s %s' "${fields[19]}" "$(</proc/sys/kernel/random/boot_id)"
}

alive() {
  local pid born
  { read -r pid born <"$state/$1/pid"; } 2>/dev/null || return 1
  [[ $(birth "$pid") == "$born" ]]
}

# launch NAME COMMAND... starts a process that outlives the calling shell and
# holds none of its descriptors: a CI job that waits for the end of our output
# would otherwise wait for the broker's.
launch() {
  local name=$1 pid
  shift
  pid=$(
    cd /
    for fd in "/proc/$BASHPID/fd/"*; do
      fd=${fd##*/}
      ((fd <= 2 || fd == 255)) || eval "exec $fd>&-"
    done
    setsid nohup "$@" >>"$(log_of "$name")" 2>&1 </dev/null &
    printf '%s' $!
  )
  printf '%s %s\n' "$pid" "$(birth "$pid")" >"$state/$name/pid"
}

# end_process NAME SECONDS asks the process to shut down and kills it, with its
# children, when it has not gone after SECONDS (0: at once). A pid that is no
# longer ours is left alone.
end_process() {
  local name=$1 patience=$2 pid children deadline signal=TERM
  alive "$name" || { rm -f "$state/$name/pid"; return 0; }
  pid=$(pid_of "$name")
  # Postgres waits for its clients to leave on TERM; on INT it sends them away.
  [[ $name != postgres ]] || signal=INT
  ((patience == 0)) || kill -s "$signal" "$pid"
  deadline=$((SECONDS + patience))
  while alive "$name" && ((SECONDS < deadline)); do sleep 0.1; done
  if alive "$name"; then
    # Stopped first: Postgres may be starting a child for a client, which would be
    # left behind, and keep the next start from the memory that they share.
    kill -s STOP "$pid" 2>/dev/null || true
    until stopped "$pid"; do sleep 0.01; done
    children=$(cat "/proc/$pid/task/$pid/children" 2>/dev/null || true)
    # shellcheck disable=SC2086 # a list of pids
    kill -s KILL "$pid" $children 2>/dev/null || true
    # Until the last one is gone its files and its port are still taken.
    for pid in $pid $children; do
      while birth "$pid" >/dev/null; do sleep 0.05; done
    done
  fi
  rm -f "$state/$name/pid"
}

# stopped: the process does nothing any more, or is gone.
stopped() {
  local stat
  { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 0
  stat=${stat##*) }
  [[ ${stat:0:1} == [TtZX] ]]
}

port_free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# keep_port FILE: the port in FILE when it is free, else a new one. The range
# lies below the one from which the kernel takes ports for outgoing connections.
# The last threads of a process that was killed hold its port for a moment longer.
keep_port() {
  local port _
  port=$(cat "$1" 2>/dev/null || true)
  for _ in {1..50}; do
    [[ -n $port ]] && ! port_free "$port" || break
    sleep 0.1
  done
  until [[ -n $port ]] && port_free "$port"; do
    port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
  done
  printf '%s\n' "$port" >"$1"
}
