# The first process of a machine: see machine.py, which runs this in namespaces of its own. Nothing it mounts is seen
# elsewhere, and nothing it writes is left: /etc, /opt and /var are the real ones underneath, with changes kept apart.
# Arguments: name of the machine, its directory, directory of kubelet.
set -eu
name=$1 disk=$2 programs=$3

hostname "$name"
mount --make-rprivate /
umount --recursive --lazy /run/netns 2>/dev/null || true # or namespaces of others would live as long as this machine
for each in etc opt var; do
    mkdir -p "$disk/$each.changes" "$disk/$each.work"
    mount -t overlay -o "lowerdir=/$each,upperdir=$disk/$each.changes,workdir=$disk/$each.work" none "/$each"
done
# What containers are made of cannot lie on an overlay.
for each in containerd kubelet; do
    mkdir -p "$disk/$each" "/var/lib/$each"
    mount --bind "$disk/$each" "/var/lib/$each"
done
rm -rf /etc/cni /opt/cni /var/lib/cni
mkdir -p /etc/cni/net.d /opt/cni/bin /var/lib/cni /var/log/pods
mount -t tmpfs -o mode=755 none /run
mount --make-shared /run # as systemd has it: containers see namespaces that are made there later

# A cgroup namespace shows what is mounted in it from the machine's own cgroups on.
mount -t sysfs none /sys
mount -t tmpfs -o mode=755 none /sys/fs/cgroup
cut -d: -f2 /proc/self/cgroup | grep . | while read -r controllers; do
    mkdir "/sys/fs/cgroup/${controllers#name=}"
    case $controllers in
    name=*) mount -t cgroup -o "none,$controllers" none "/sys/fs/cgroup/${controllers#name=}" ;;
    *) mount -t cgroup -o "$controllers" none "/sys/fs/cgroup/$controllers" ;;
    esac
done

# A kubelet sets these for the whole kernel, which is not this machine's alone: it finds them as it wants them.
set_apart() {
    echo "$2" >"/run/$(basename "$1")"
    mount --bind "/run/$(basename "$1")" "/proc/sys/$1"
}
set_apart vm/overcommit_memory 1
set_apart vm/panic_on_oom 0
set_apart kernel/panic 10
set_apart kernel/panic_on_oops 1
set_apart kernel/keys/root_maxkeys 1000000
set_apart kernel/keys/root_maxbytes 25000000

containerd -c "$disk/containerd.toml" >>"$disk/containerd.log" 2>&1 &
for _ in $(seq 600); do
    [ -S /run/containerd/containerd.sock ] && break
    sleep 0.1
done
ctr -n k8s.io images import --no-unpack "$disk/images.tar" >"$disk/images.log" 2>&1
"$programs/kubelet" --config="$disk/kubelet.yaml" --kubeconfig="$disk/kubeconfig" --hostname-override="$name" \
    --node-ip="$(cat "$disk/addresses")" >>"$disk/kubelet.log" 2>&1 &
wait
