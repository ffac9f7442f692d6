//! Images with other people's services, as small as such images are: nginx, PostgreSQL and dnsmasq of Debian 13, each
//! with the libraries it needs, on the files of the busybox image.
//!
//! They are built once, from the mirror this machine uses, and kept like packages are. What they hold stands where it
//! does in the images that are made for registries under these names: `/etc/nginx/conf.d`, `docker-entrypoint.sh`,
//! `/var/lib/postgresql/data`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::json;

use super::{Place, debian, image, lock, root, say};
use crate::Incus;

/// Where the archives are.
const PATH: &str = "/var/cache/portway-testbed/services";

/// Version of what is built; raise it, and the number in [`PREFIX`], with every change to the script.
const MAKE: &str = "services 2\n";

/// What the aliases of the images begin with: `services-2-nginx`.
pub(crate) const PREFIX: &str = "services-2-";

/// The images.
const NAMES: [&str; 3] = ["nginx", "postgres", "dnsmasq"];

/// Builds the archives in the folder `images` of the root `$1`, in a mount namespace that ends with it. `DEBIAN` is the
/// archive of Debian, `BASE` that of the busybox image.
const BUILD: &str = r#"
set -e
root=$1
tar --extract --numeric-owner --file "$DEBIAN" --directory "$root" --strip-components=1 rootfs
mkdir -p "$root/proc" "$root/dev" "$root/etc/postgresql-common"
cp /etc/resolv.conf "$root/etc/resolv.conf"
cp /etc/apt/apt.conf.d/*proxy* "$root/etc/apt/apt.conf.d/" 2>/dev/null || true
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod +x "$root/usr/sbin/policy-rc.d"
printf 'force-unsafe-io\nforce-confold\npath-exclude=/usr/share/doc/*\npath-exclude=/usr/share/man/*\npath-exclude=/usr/share/locale/*\n' >"$root/etc/dpkg/dpkg.cfg.d/testbed"
echo 'create_main_cluster = false' >"$root/etc/postgresql-common/createcluster.conf"
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
export DEBIAN_FRONTEND=noninteractive
chroot "$root" apt-get update -q
chroot "$root" apt-get install -y -q --no-install-recommends nginx postgresql-17 dnsmasq-base tzdata

# What the image $1 has of its own: its folder, on the files of the base.
begin() {
    rootfs=$root/images/$1/rootfs
    mkdir -p "$root/images/$1"
    tar --extract --numeric-owner --file "$BASE" --directory "$root/images/$1"
    printf 'architecture: %s\ncreation_date: 1700000000\nproperties: {os: debian, description: %s}\n' "$(uname -m)" "$1" \
        >"$root/images/$1/metadata.yaml"
}

# Programs and libraries with all they are linked with.
copy() {
    for program; do
        echo "$program"
        chroot "$root" ldd "$program" 2>/dev/null | sed -n 's,^.*=> \(/[^ ]*\) .*$,\1,p; s,^[[:space:]]*\(/[^ ]*\) (.*$,\1,p'
    done | sort -u | while read -r file; do
        mkdir -p "$rootfs$(dirname "$file")"
        cp -L "$root$file" "$rootfs$file"
    done
}

end() {
    tar --create --numeric-owner --file "$root/images/$1.tar" --directory "$root/images/$1" metadata.yaml rootfs
    rm -r "$root/images/$1"
}

begin nginx
copy /usr/sbin/nginx
mkdir -p "$rootfs/etc/nginx/conf.d" "$rootfs/usr/share/nginx/html" "$rootfs/var/lib/nginx" "$rootfs/var/log/nginx"
cp "$root/etc/nginx/mime.types" "$rootfs/etc/nginx/"
echo 'nginx:x:101:101::/nonexistent:/bin/sh' >>"$rootfs/etc/passwd"
echo 'nginx:x:101:' >>"$rootfs/etc/group"
echo 'Welcome to nginx!' >"$rootfs/usr/share/nginx/html/index.html"
cat >"$rootfs/etc/nginx/nginx.conf" <<'END'
user nginx;
worker_processes 1;
error_log stderr notice;
pid /run/nginx.pid;
events { worker_connections 256; }
http {
    include /etc/nginx/mime.types;
    access_log off;
    include /etc/nginx/conf.d/*.conf;
}
END
cat >"$rootfs/etc/nginx/conf.d/default.conf" <<'END'
server {
    listen 80;
    root /usr/share/nginx/html;
}
END
end nginx

begin postgres
of=/usr/lib/postgresql/17
mkdir -p "$rootfs$of/lib" "$rootfs/usr/share/postgresql" "$rootfs/usr/local/bin" "$rootfs/usr/share/zoneinfo/Etc"
mkdir -p "$rootfs/var/lib/postgresql" "$rootfs/run/postgresql"
cp -r "$root/usr/share/postgresql/17" "$rootfs/usr/share/postgresql/"
cp -L "$root/usr/share/zoneinfo/Etc/UTC" "$rootfs/usr/share/zoneinfo/Etc/"
copy "$of/bin/postgres" "$of/bin/initdb" "$of/bin/psql" "$of/bin/pg_isready" /usr/bin/setpriv \
    "$of/lib/plpgsql.so" "$of/lib/dict_snowball.so" "$of/lib/libpqwalreceiver.so"
for encoding in "$root$of"/lib/utf8_and_*.so "$root$of"/lib/*_and_*.so; do cp "$encoding" "$rootfs$of/lib/"; done
for program in postgres initdb psql pg_isready; do ln -s "$of/bin/$program" "$rootfs/usr/local/bin/$program"; done
echo 'postgres:x:999:999::/var/lib/postgresql:/bin/sh' >>"$rootfs/etc/passwd"
echo 'postgres:x:999:' >>"$rootfs/etc/group"
chown 999:999 "$rootfs/var/lib/postgresql" "$rootfs/run/postgresql"
cat >"$rootfs/usr/local/bin/docker-entrypoint.sh" <<'END'
#!/bin/sh
# Makes the database when there is none, and runs what it is given as the user postgres.
set -e
export PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PGDATA="${PGDATA:-/var/lib/postgresql/data}"
as_postgres='/usr/bin/setpriv --reuid=999 --regid=999 --clear-groups'
mkdir -p /run/postgresql
chown 999:999 /run/postgresql
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    mkdir -p "$PGDATA"
    chown 999:999 "$PGDATA"
    chmod 700 "$PGDATA"
    [ -z "$POSTGRES_PASSWORD_FILE" ] || POSTGRES_PASSWORD=$(cat "$POSTGRES_PASSWORD_FILE")
    umask 077
    printf '%s\n' "$POSTGRES_PASSWORD" >/tmp/password
    chown 999:999 /tmp/password
    $as_postgres initdb --no-locale --encoding=UTF8 --username=postgres --pwfile=/tmp/password --no-sync \
        --auth-local=trust --auth-host=scram-sha-256
    rm /tmp/password
    echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
    echo "listen_addresses = '*'" >>"$PGDATA/postgresql.conf"
fi
exec $as_postgres "$@"
END
chmod 755 "$rootfs/usr/local/bin/docker-entrypoint.sh"
end postgres

begin dnsmasq
copy /usr/sbin/dnsmasq
mkdir -p "$rootfs/var/lib/misc" "$rootfs/var/run"
end dnsmasq

umount "$root/proc" "$root/dev"
find "$root" -mindepth 1 -maxdepth 1 ! -name images -exec rm -rf --one-file-system {} +
"#;

/// The archive of one of the images.
pub(crate) fn archive(name: &str) -> PathBuf {
    Path::new(PATH).join("images").join(format!("{name}.tar"))
}

/// Builds the archives, or finds them built.
pub(crate) fn provide() -> Result<()> {
    if root::is_made(PATH, MAKE) {
        return Ok(());
    }
    debian::provide()?;
    let work = tempfile::tempdir().context("cannot make a folder")?;
    let base = image::build(work.path())?;
    let script = format!("DEBIAN={}\nBASE={}\n{BUILD}", debian::ARCHIVE, base.display());
    root::provide_root(PATH, MAKE, &script)
}

/// Sees to it that a server has the images.
pub(crate) fn import(place: &Place) -> Result<()> {
    let incus = Incus::new(&place.socket());
    let alias = |name: &str| format!("{PREFIX}{name}");
    let has = |name: &str| incus.find(&format!("/1.0/images/aliases/{}", alias(name)));
    for name in NAMES {
        if has(name)?.is_some() {
            continue;
        }
        provide()?;
        let _setup = lock::setup(place)?;
        // Whoever held the lock may have done it.
        if has(name)?.is_some() {
            continue;
        }
        say(&format!("importing the image of {name}"));
        let made = incus.upload("/1.0/images", &archive(name));
        let made = made.with_context(|| format!("cannot import the image of {name}"))?;
        let fingerprint = made["fingerprint"].as_str().context("the image has no fingerprint")?;
        let named = json!({"name": alias(name), "target": fingerprint, "description": ""});
        incus.change("POST", "/1.0/images/aliases", Some(&named)).context("cannot name the image")?;
    }
    Ok(())
}
