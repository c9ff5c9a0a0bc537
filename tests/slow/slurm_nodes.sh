#!/usr/bin/env bash
# Run BATCH as the batch script of a Slurm job on two nodes: slurm_nodes.sh FOLDER BATCH...
#
# A node is a set of Linux namespaces: its own network, processes, host name and files of Ray. `ray stop` ends
# all of Ray that it sees, so it must not see other clusters of this machine. Only `scontrol` and `srun` are
# replaced. Run it in namespaces of its own as well (see test_slurm.py), which end with it.
set -euo pipefail
folder=$1; shift

node() { # node NAME COMMAND...: run COMMAND on a new node
  unshare --net --pid --fork --mount --mount-proc --uts --kill-child bash -euc '
    hostname "$1"
    mkdir -p /tmp/ray && mount -t tmpfs none /tmp/ray
    mount --bind "$0/hosts" /etc/hosts
    ip link set lo up
    echo $$ >"$0/started.$1"
    until [ -e "$0/linked" ]; do sleep 0.1; done
    shift; exec "$@"' "$folder" "$@"
}

link() { # link NODE ADDRESS: give a node its end of the cable
  ip link set "$1" netns "$2"
  nsenter --target "$2" --net ip addr add "$3/24" dev "$1"
  nsenter --target "$2" --net ip link set "$1" up
}

mkdir -p "$folder/bin"
printf '127.0.0.1 localhost\n10.99.0.1 node1\n10.99.0.2 node2\n' >"$folder/hosts"

cat >"$folder/bin/scontrol" <<'SCRIPT'
#!/usr/bin/env bash
[ "$*" = "show hostnames node[1-2]" ] && printf 'node1\nnode2\n'
SCRIPT
cat >"$folder/bin/srun" <<SCRIPT
#!/usr/bin/env bash
# Runs a command on both nodes at the same time, with the environment of the batch script.
[[ "\$1 \$2" = "--nodes=2 --ntasks=2" ]] || exit 9
shift 2
{ export -p; printf 'cd %q; export SLURM_PROCID=1\n' "\$PWD"; printf '%q ' "\$@"; } >"$folder/task.part"
mv "$folder/task.part" "$folder/task"
SLURM_PROCID=0 "\$@"; code=\$?
until [ -e "$folder/task.code" ]; do sleep 0.1; done
other=\$(cat "$folder/task.code")
exit \$((code > other ? code : other))
SCRIPT
cat >"$folder/bin/slurmd" <<SCRIPT
#!/usr/bin/env bash
# Waits for the task of the second node and runs it.
until [ -e "$folder/task" ]; do sleep 0.1; done
bash "$folder/task"
echo \$? >"$folder/code"
mv "$folder/code" "$folder/task.code"
SCRIPT
chmod +x "$folder"/bin/*

node node2 "$folder/bin/slurmd" >"$folder/node2.log" 2>&1 &
second=$!
PATH="$folder/bin:$PATH" SLURM_JOB_ID=7 SLURM_JOB_NUM_NODES=2 SLURM_JOB_NODELIST="node[1-2]" SLURM_SUBMIT_DIR="$PWD" \
  node node1 "$@" &
first=$!
until [ -e "$folder/started.node1" ] && [ -e "$folder/started.node2" ]; do sleep 0.1; done
ip link add name node1 type veth peer name node2
link node1 "$(pgrep -P "$first")" 10.99.0.1
link node2 "$(pgrep -P "$second")" 10.99.0.2
touch "$folder/linked"
wait "$first"
