# Runs as the first process of new PID, mount, IPC and UTS namespaces, and becomes the machine's init.
# $1: an empty directory to build in; $2: the cgroup's name; the rest: what to run as init.
set -e
dir=$1 group=$2
shift 2
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$dir"
mkdir "$dir/upper" "$dir/work" "$dir/root" "$dir/cgroup"

# A cgroup of its own, so that systemd makes its units there and not among the host's.
mount -t cgroup2 cgroup2 "$dir/cgroup"
mkdir "$dir/cgroup/$group"
echo 0 > "$dir/cgroup/$group/cgroup.procs"

root=$dir/root
mount -t overlay -o "lowerdir=/,upperdir=$dir/upper,workdir=$dir/work" overlay "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
for d in run tmp dev; do mount -t tmpfs -o mode=755 tmpfs "$root/$d"; done
chmod 1777 "$root/tmp"
mkdir "$root/dev/net" "$root/dev/pts" "$root/dev/shm"
for d in null zero full random urandom tty; do
  : > "$root/dev/$d"
  mount --bind "/dev/$d" "$root/dev/$d"
done
mknod -m 666 "$root/dev/net/tun" c 10 200 # as udev makes it
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
: > "$root/dev/console"
mount --bind /dev/null "$root/dev/console"
rm -f "$root/etc/fstab" "$root/usr/sbin/policy-rc.d" # mounts are made, and services may be started

cd "$root"
mkdir -p .host
exec unshare --cgroup -- sh -ec '
  mount -t cgroup2 cgroup2 sys/fs/cgroup
  mount -o remount,bind,ro sys
  pivot_root . .host
  umount -l /.host
  exec "$@" </dev/null >/dev/console 2>&1' sh "$@"
