# The first program of a host's container, before systemd takes over.

# A container's cgroups are mounted read-only: make its own mounts writable, so that units can be limited.
# `bind` matters: without it the remount would reach the superblock that the whole machine shares.
for mount in /sys/fs/cgroup /sys/fs/cgroup/*; do
    mountpoint -q "$mount" && mount -o remount,bind,rw "$mount"
done

# There is no name server: a name that is not in /etc/hosts is unknown at once, not after 20 seconds.
: >/etc/resolv.conf

exec /sbin/init
