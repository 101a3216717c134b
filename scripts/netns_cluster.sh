#!/usr/bin/env bash
# Simulated hosts: network namespaces joined by links of a given shape.
#
#   scripts/netns_cluster.sh create HOSTS RATE DELAY   2 100mbit 5ms
#   scripts/netns_cluster.sh exec HOST COMMAND...      on one host
#   scripts/netns_cluster.sh run RANKS COMMAND...      so many ranks on each
#   scripts/netns_cluster.sh shape                     what there is
#   scripts/netns_cluster.sh destroy
#
# RATE is per host and direction (kbit, mbit or gbit; 0 is without a limit),
# DELAY one way (us or ms). A host has its own host name and the address
# 10.98.0.(HOST+1); ranks of one host talk over its loopback. Each has its share
# of the processors, unless there are fewer than hosts. `run` sets what torchrun
# would set. Needs root, iproute2, unshare, taskset and Python; nothing of it
# outlives `destroy`.
set -euo pipefail

prefix=scaletorch-host
switch=scaletorch-switch
folder=${TMPDIR:-/tmp}/scaletorch-netns
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

fail() {
  echo "netns_cluster.sh: $*" >&2
  exit 2
}

in_bits() {
  case $1 in
    *gbit) echo "${1%gbit}000000000" ;;
    *mbit) echo "${1%mbit}000000" ;;
    *kbit) echo "${1%kbit}000" ;;
    0) echo 0 ;;
    *) fail "a rate is like 100mbit, 1gbit or 0, got $1" ;;
  esac
}

in_us() {
  case $1 in
    *ms) echo "${1%ms}000" ;;
    *us) echo "${1%us}" ;;
    0) echo 0 ;;
    *) fail "a delay is like 5ms, 200us or 0, got $1" ;;
  esac
}

hosts() {
  cat "$folder/hosts" 2>/dev/null || fail "there are no hosts; create some"
}

destroy() {
  if [[ -f $folder/forwarder ]]; then
    kill "$(cat "$folder/forwarder")" 2>/dev/null || true
  fi
  for name in $(ip netns list | awk '{print $1}'); do
    case $name in
      "$prefix"[0-9]* | "$switch") ip netns delete "$name" ;;
    esac
  done
  rm -rf "$folder"
}

create() {
  [[ $# == 3 ]] || fail "create needs hosts, a rate and a delay"
  local rate delay ports=()
  rate=$(in_bits "$2")
  delay=$(in_us "$3")
  destroy
  mkdir -p "$folder"
  ip netns add "$switch"
  for ((host = 0; host < $1; host++)); do
    local name=$prefix$host
    ip netns add "$name"
    ip -n "$name" link set lo up
    ip -n "$switch" link add "port$host" type veth peer name eth0 netns "$name"
    ip -n "$switch" link set "port$host" up
    ip -n "$name" address add "10.98.0.$((host + 1))/24" dev eth0
    ip -n "$name" link set eth0 up
    ports+=("port$host")
  done
  ip netns exec "$switch" python3 "$here/slow_links.py" --ready \
    "$folder/ready" --rate-bit-s "$rate" --delay-us "$delay" "${ports[@]}" \
    >"$folder/log" 2>&1 &
  echo $! >"$folder/forwarder"
  for ((tries = 0; tries < 100; tries++)); do
    [[ -f $folder/ready ]] && break
    sleep 0.05
  done
  [[ -f $folder/ready ]] || fail "links do not come up: $(cat "$folder/log")"
  echo "$1" >"$folder/hosts"
  echo "$1 hosts, $2, $3 one way" | tee "$folder/shape"
}

processors() {
  local count all
  count=$(hosts)
  all=$(nproc --all)
  if ((all < count)); then
    echo "0-$((all - 1))"
  else
    echo "$((all * $1 / count))-$((all * ($1 + 1) / count - 1))"
  fi
}

on_host() {
  local host=$1
  shift
  ip netns exec "$prefix$host" taskset --cpu-list "$(processors "$host")" \
    unshare --uts bash -c \
    "hostname sim$host && exec \"\$@\"" bash "$@"
}

run() {
  [[ $# -ge 2 ]] || fail "run needs ranks for each host and a command"
  local ranks=$1 count status=0 jobs=()
  shift
  count=$(hosts)
  for ((rank = 0; rank < ranks * count; rank++)); do
    on_host $((rank / ranks)) env RANK="$rank" LOCAL_RANK=$((rank % ranks)) \
      WORLD_SIZE=$((ranks * count)) LOCAL_WORLD_SIZE="$ranks" \
      MASTER_ADDR=10.98.0.1 MASTER_PORT=29400 GLOO_SOCKET_IFNAME=eth0 \
      "$@" &
    jobs+=($!)
  done
  for job in "${jobs[@]}"; do wait "$job" || status=$?; done
  return "$status"
}

case ${1:-} in
  create) shift && create "$@" ;;
  destroy) destroy ;;
  exec) shift && on_host "$@" ;;
  run) shift && run "$@" ;;
  shape) cat "$folder/shape" ;;
  *) sed -n '2,17s/^# \{0,1\}//p' "$0" && exit 2 ;;
esac
