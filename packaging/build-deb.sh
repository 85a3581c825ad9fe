#!/bin/sh
# Builds upswarm_VERSION_ARCH.deb from a built binary.
#   packaging/build-deb.sh [BINARY] [OUTPUT-DIRECTORY]
# DEBEMAIL is the maintainer's address. BINARY defaults to target/release/upswarm of this tree, the directory to the current one. Prints the package's path.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
binary=${1:-${CARGO_TARGET_DIR:-$here/../target}/release/upswarm}
out=${2:-.}
[ -x "$binary" ] || {
    echo "build-deb.sh: $binary is not there; build it first: cargo build --release" >&2
    exit 1
}
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$here/../Cargo.toml")
mail=${DEBEMAIL:-upswarm@localhost}
arch=$(dpkg --print-architecture)
stamp=${SOURCE_DATE_EPOCH:-$(date +%s)}
export SOURCE_DATE_EPOCH="$stamp"
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
chmod 755 "$tree"
umask 022

install -D -m 755 "$binary" "$tree/usr/bin/upswarm"
strip --strip-unneeded --remove-section=.comment "$tree/usr/bin/upswarm"
for unit in node installer coordinator; do
    install -D -m 644 -t "$tree/usr/lib/systemd/system" "$here/upswarm-$unit.service"
done
install -D -m 644 "$here/upswarm.sysusers" "$tree/usr/lib/sysusers.d/upswarm.conf"
install -D -m 644 "$here/upswarm.tmpfiles" "$tree/usr/lib/tmpfiles.d/upswarm.conf"
# A page for every verb, and completions, as --help says it; upswarm(7) is how a machine is set up.
mkdir -p "$tree/usr/share/man/man1"
"$binary" man "$tree/usr/share/man/man1" >/dev/null
install -D -m 644 "$here/upswarm.7" "$tree/usr/share/man/man7/upswarm.7"
find "$tree/usr/share/man" -type f -exec gzip -9n {} +
for shell in bash:bash-completion/completions/upswarm zsh:zsh/vendor-completions/_upswarm fish:fish/vendor_completions.d/upswarm.fish; do
    target=$tree/usr/share/${shell#*:}
    mkdir -p "$(dirname "$target")"
    "$binary" completions "${shell%%:*}" > "$target"
done
doc=$tree/usr/share/doc/upswarm
install -D -m 644 "$here/debian/copyright" "$doc/copyright"
install -D -m 644 "$here/../README.md" "$doc/README.md"
install -D -m 644 -t "$doc/monitoring" "$here/monitoring/alerts.yml" "$here/monitoring/dashboard.json"
gzip -9n "$doc/README.md"
printf 'upswarm (%s) unstable; urgency=medium\n\n  * This version.\n\n -- upswarm <%s>  %s\n' \
    "$version" "$mail" "$(LC_ALL=C date -R -u -d "@$stamp")" | gzip -9n > "$doc/changelog.gz"

# The C library's newest symbol that the binary asks for says how new the library must be.
libc=$(objdump -T "$tree/usr/bin/upswarm" | sed -n 's/.*GLIBC_\([0-9.]*\).*/\1/p' | sort -uV | tail -n 1)
mkdir "$tree/DEBIAN"
for script in postinst prerm postrm; do
    install -m 755 "$here/debian/$script" "$tree/DEBIAN/$script"
done
cat > "$tree/DEBIAN/control" <<CONTROL
Package: upswarm
Version: $version
Architecture: $arch
Maintainer: upswarm <$mail>
Installed-Size: $(du -k -s --apparent-size "$tree/usr" | cut -f 1)
Depends: libc6 (>= $libc), libgcc-s1 (>= 4.2), adduser, passwd
Section: admin
Priority: optional
Description: peer-to-peer software-update distribution
 Machines of a site share approved updates, so that one copy of each byte
 crosses its WAN link. The process on the network runs without privileges; a
 small process of root's installs what is released and approved.
 .
 Nothing runs before the machine has joined a deployment.
CONTROL
(cd "$tree" && find usr -type f | sort | xargs md5sum) > "$tree/DEBIAN/md5sums"
chmod 644 "$tree/DEBIAN/control" "$tree/DEBIAN/md5sums"

mkdir -p "$out"
package=$out/upswarm_${version}_${arch}.deb
dpkg-deb --root-owner-group -Zxz -z1 --build "$tree" "$package" >/dev/null
echo "$package"
