# Becomes the guest's first process after boot.sh: mounts the usual file systems, runs the command and powers off.
# A file system that the kernel lacks or refuses (under lockdown) stays unmounted; mount reports it on the console.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
. /run/vm/settings
mkdir -p /dev/pts /dev/shm "$SHARE"
mount -t devpts pts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t securityfs security /sys/kernel/security
mount -t tracefs tracefs /sys/kernel/tracing
mount -t debugfs debugfs /sys/kernel/debug
mount -t 9p -o rw,trans=virtio,version=9p2000.L,msize=512000,cache=none share "$SHARE"
/run/vm/busybox hostname vm
/run/vm/busybox ip link set lo up
# The command's output does not go to the console, because the kernel writes there and a serial line is slow.
port=$(echo /dev/vport*p1)
/bin/sh /run/vm/command </dev/null >"$port" 2>&1
echo $? >"$SHARE/status"
/run/vm/busybox poweroff -f
