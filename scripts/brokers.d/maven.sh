# shellcheck shell=bash
# Jars from Maven Central: one artifact with all it depends on, copied to lib/.
# shellcheck disable=SC2154

# jars NAME prints what NAME is made of: group:artifact:version, one a line.
jars() {
  case $1 in
    # Kafka logs through slf4j and ships no backend for it outside its tarball.
    kafka) printf '%s\n' org.apache.kafka:kafka_2.13:4.1.0 org.slf4j:slf4j-simple:1.7.36 ;;
    sqs) printf '%s\n' org.elasticmq:elasticmq-server_2.13:1.6.12 ;;
  esac
}

# A change of version brings new jars: what lib/ holds is noted beside it.
jars_present() { [[ $(cat "$state/$1/lib/contents" 2>/dev/null) == "$(jars "$1")" ]]; }

fetch_jars() {
  local name=$1 dir=$state/$1 group artifact version
  ! jars_present "$name" || return 0
  say "$name: fetching $(jars "$name" | head -n 1)"
  rm -rf "${dir:?}/lib" "$dir/lib.part"
  {
    echo '<project><modelVersion>4.0.0</modelVersion><groupId>headrace</groupId>'
    echo "<artifactId>$name</artifactId><version>1</version><packaging>pom</packaging><dependencies>"
    while IFS=: read -r group artifact version; do
      echo "<dependency><groupId>$group</groupId><artifactId>$artifact</artifactId><version>$version</version></dependency>"
    done < <(jars "$name")
    echo '</dependencies></project>'
  } >"$dir/pom.xml"
  # Maven's local repository must not be written by two at once.
  mkdir -p ~/.m2
  flock ~/.m2/.headrace.lock timeout 600 mvn -B -q -f "$dir/pom.xml" \
    org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies \
    -DincludeScope=runtime -DoutputDirectory="$dir/lib.part" >"$(log_of "$name")" 2>&1 9>&- </dev/null || {
    fail_with_log "$name" "could not fetch its jars"
    return 1
  }
  jars "$name" >"$dir/lib.part/contents"
  mv "$dir/lib.part" "$dir/lib"
}
