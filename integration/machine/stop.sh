# Removes the cgroup $2 that start.sh made, with what systemd made in it; $1 is an empty directory.
set -e
mount --make-rprivate /
mount -t cgroup2 cgroup2 "$1"
find "$1/$2" -depth -type d -exec rmdir {} +
