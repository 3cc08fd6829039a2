#!/busybox sh
# The guest's first process, in the initramfs: makes a root of the host's and the kernel's own files, and goes there.
/busybox mkdir -p /bin /proc /sys /dev /host /kernel /rw /new
/busybox --install -s /bin
export PATH=/bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
for module in /vm/modules/*; do insmod "$module"; done

# read-only and never written behind the guest's back, so it may cache; all that it writes goes to memory
p9=ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose
mount -t 9p -o $p9 host /host
mount -t 9p -o $p9 kernel /kernel
mount -t tmpfs rw /rw
mkdir /rw/upper /rw/work
# in this order: /lib/modules/RELEASE and /usr/src are as if the kernel's packages were installed
mount -t overlay -o lowerdir=/kernel:/host,upperdir=/rw/upper,workdir=/rw/work root /new

for dir in dev proc sys; do mount --move /$dir /new/$dir; done
mount -t tmpfs run /new/run
cp -r /vm /new/run/vm
# not chroot: in one, the kernel allows no user namespaces
exec switch_root /new /bin/sh /run/vm/inside.sh
