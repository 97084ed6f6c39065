# shellcheck shell=bash
# Apache Kafka: one KRaft node, broker and controller in one process.
# shellcheck disable=SC2154

kafka_prepare() {
  local dir=$state/kafka
  fetch_jars kafka || return 1
  keep_port "$dir/port"
  keep_port "$dir/controller_port"
  kafka_properties >"$dir/server.properties"
  if [[ ! -s $dir/data/meta.properties ]]; then
    # A cluster id is a base64url UUID; the leading letter keeps it from looking like an option.
    local id
    id=H$(head -c 16 /dev/urandom | base64 | tr '+/' '-_' | cut -c 2-21)A
    java -cp "$dir/lib/*" kafka.tools.StorageTool format --ignore-formatted \
      -t "$id" -c "$dir/server.properties" >"$(log_of kafka)" 2>&1 9>&- </dev/null || {
      fail_with_log kafka "could not format its data directory"
      return 1
    }
  fi
}

# HEADRACE_KAFKA_ADVERTISED is where clients find it, when that is a proxy.
kafka_properties() {
  local dir=$state/kafka controller
  controller=$(cat "$dir/controller_port")
  cat <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$controller
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:$(port_of kafka),CONTROLLER://127.0.0.1:$controller
advertised.listeners=PLAINTEXT://${HEADRACE_KAFKA_ADVERTISED:-$(address kafka)}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=$dir/data
auto.create.topics.enable=true
num.partitions=4
default.replication.factor=1
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
# After a kill the broker is let back in only when its old session has run out
# (9 s by default). Shorter than this, a busy machine would fence a live broker.
broker.session.timeout.ms=5000
broker.heartbeat.interval.ms=1000
group.initial.rebalance.delay.ms=0
# Nothing that a test wrote may vanish under it.
log.retention.ms=-1
log.retention.bytes=-1
PROPERTIES
}

kafka_launch() {
  local dir=$state/kafka
  launch kafka java -Xms256m -Xmx768m -XX:MaxMetaspaceSize=256m -XX:MaxDirectMemorySize=256m \
    -XX:+ExitOnOutOfMemoryError "-XX:ErrorFile=$dir/crash-%p.log" \
    -Dorg.slf4j.simpleLogger.showDateTime=true \
    '-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS' \
    -cp "$dir/lib/*" kafka.Kafka "$dir/server.properties"
}

# kafka_ready sends a Metadata request (version 1, no topics) and wants one broker
# in the answer: a broker that is still fenced accepts connections but isn't listed.
kafka_ready() {
  local answer
  exec 3<>"/dev/tcp/127.0.0.1/$(port_of kafka)" || return 1
  printf '\x00\x00\x00\x0e\x00\x03\x00\x01\x00\x00\x00\x07\xff\xff\x00\x00\x00\x00' >&3
  # length, correlation id, number of brokers
  answer=$(timeout 5 head -c 12 <&3 | od -An -v -tx1 | tr -d ' \n')
  exec 3>&-
  [[ ${answer:8} == 0000000700000001 ]]
}

kafka_env() { printf 'export HEADRACE_TEST_KAFKA=kafka://%s\n' "$(address kafka)"; }
