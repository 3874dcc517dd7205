#!/bin/sh
# Makes a tree of unpacked Debian packages the root of an image: mmdebstrap calls it with the tree, and DROPPED names the
# packages that only Debian's own tools need.
set -eu
root=$1

for deb in "$root"/var/cache/apt/archives/*.deb; do
    name=$(dpkg-deb --field "$deb" Package)
    case " $DROPPED " in
    *" $name "*)
        dpkg-deb --fsys-tarfile "$deb" | tar --list | while read -r path; do
            [ -d "$root/$path" ] && [ ! -L "$root/$path" ] || rm -f "$root/$path"
        done
        ;;
    *)
        # a real Debian's list of packages, which SBOMs are made of
        dpkg-deb --field "$deb" >>"$root/var/lib/dpkg/status"
        printf 'Status: install ok installed\n\n' >>"$root/var/lib/dpkg/status"
        ;;
    esac
done

mkdir -p "$root/etc/ssl/certs"
cat "$root"/usr/share/ca-certificates/mozilla/*.crt >"$root/etc/ssl/certs/ca-certificates.crt"
rm -rf "$root/usr/share/man" "$root/usr/share/locale" "$root/usr/share/lintian"
find "$root/usr/share/doc" -type f ! -name copyright -delete
find "$root/etc" "$root/usr" "$root/var" "$root/lib" -depth -type d -empty ! -path "$root/var/lib/dpkg*" \
    ! -path "$root/var/cache/*" ! -path "$root/var/lib/apt*" ! -path "$root/etc/apt*" -delete

echo 'root:x:0:0:root:/root:/usr/sbin/nologin' >"$root/etc/passwd"
echo 'nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin' >>"$root/etc/passwd"
printf 'root:x:0:\nnogroup:x:65534:\n' >"$root/etc/group"
printf 'passwd: files\ngroup: files\nhosts: files dns\n' >"$root/etc/nsswitch.conf"
mkdir -p "$root/tmp" "$root/root"
chmod 1777 "$root/tmp"

# nothing of the machine that built it stays: neither its mirror nor its name
rm -f "$root/etc/apt/sources.list" "$root/etc/hostname" "$root/etc/resolv.conf" "$root/etc/fstab"
