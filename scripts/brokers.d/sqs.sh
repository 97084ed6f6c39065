# shellcheck shell=bash
# ElasticMQ: speaks SQS, standard and FIFO queues, with Amazon's limits enforced.
# shellcheck disable=SC2154

sqs_prepare() {
  local dir=$state/sqs port
  fetch_jars sqs || return 1
  keep_port "$dir/port"
  port=$(port_of sqs)
  cat >"$dir/elasticmq.conf" <<CONF
include classpath("application.conf")
node-address { protocol = http, host = "127.0.0.1", port = $port, context-path = "" }
rest-sqs { enabled = true, bind-hostname = "127.0.0.1", bind-port = $port, sqs-limits = strict }
rest-stats { enabled = false }
aws { region = us-east-1, accountId = 000000000000 }
$(sqs_storage "$dir")
CONF
}

# Messages live in memory. ElasticMQ 1.6.12 can store them, but its storage races
# under concurrent calls (ConcurrentModificationException in its log), so that a
# call now and then hangs for seconds and the SDK's retry doubles the message.
# Tests that restart the server set HEADRACE_SQS_DURABLE=1 and live with that.
# Without WRITE_DELAY=0 a kill would take half a second of confirmed sends.
sqs_storage() {
  [ -n "${HEADRACE_SQS_DURABLE:-}" ] || return 0
  echo "messages-storage { enabled = true, uri = \"jdbc:h2:$1/data;WRITE_DELAY=0\", prune-data-on-init = false }"
}

sqs_launch() {
  local dir=$state/sqs
  launch sqs java -Xmx512m -XX:MaxMetaspaceSize=256m -XX:+ExitOnOutOfMemoryError \
    "-XX:ErrorFile=$dir/crash-%p.log" "-Dconfig.file=$dir/elasticmq.conf" \
    -cp "$dir/lib/*" org.elasticmq.server.Main
}

sqs_ready() {
  curl -fsS -m 5 "http://$(address sqs)/?Action=ListQueues" | grep ListQueuesResponse >/dev/null
}

# ElasticMQ takes any credentials, but a client refuses to sign with none.
sqs_env() {
  printf "export HEADRACE_TEST_SQS='sqs://%s?region=us-east-1&access_key=x&secret_key=x'\n" "$(address sqs)"
  printf 'export HEADRACE_TEST_SQS_ENDPOINT=http://%s\n' "$(address sqs)"
}
