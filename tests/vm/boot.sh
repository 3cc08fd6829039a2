#!/busybox sh
# The guest's first process, run from the initramfs: overlays the kernel package's files on the host's, and switches
# to that root.
/busybox mkdir -p /bin /proc /sys /dev /host /kernel /rw /new
/busybox --install -s /bin
export PATH=/bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
for module in /vm/modules/*; do insmod "$module"; done

# The host's files are read-only and do not change during a run, so the guest may cache them. Its writes go to memory.
p9=ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose
mount -t 9p -o $p9 host /host
mount -t 9p -o $p9 kernel /kernel
mount -t tmpfs rw /rw
mkdir /rw/upper /rw/work
# The kernel's files come first, so /lib/modules/RELEASE and /usr/src look as if its packages were installed.
mount -t overlay -o lowerdir=/kernel:/host,upperdir=/rw/upper,workdir=/rw/work root /new

for dir in dev proc sys; do mount --move /$dir /new/$dir; done
mount -t tmpfs run /new/run
cp -r /vm /new/run/vm
# Not chroot, because the kernel refuses user namespaces to processes in one.
exec switch_root /new /bin/sh /run/vm/inside.sh
