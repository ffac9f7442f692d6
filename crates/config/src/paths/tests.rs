//! Layout, checks of `PORTWAY_DIR`, lock.

use super::*;

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn an_empty_variable_is_unset() {
    let none = Paths::from_env(|_| None).unwrap();
    let empty = Paths::from_env(|_| Some(OsString::new())).unwrap();
    assert_eq!(none, Paths::system());
    assert_eq!(empty, Paths::system());
    assert_eq!(none.nft_table(), "portway");
}

#[test]
fn everything_is_below_the_folder() {
    let paths = Paths::from_env(|name| (name == DIR_VARIABLE).then(|| OsString::from("/srv/pw"))).unwrap();
    assert_eq!(paths.config, Path::new("/srv/pw/portway.toml"));
    assert_eq!(paths.socket, Path::new("/srv/pw/portway.sock"));
    assert_eq!(paths.state, Path::new("/srv/pw/state.json"));
    assert_eq!(paths.workers_dir, Path::new("/srv/pw/workers"));
    // First four bytes of `printf /srv/pw | sha256sum`.
    assert_eq!(paths.nft_table(), "portway_da771370");
}

#[test]
fn a_relative_folder_counts_from_the_working_folder() {
    let paths = Paths::below(Path::new("here")).unwrap();
    assert_eq!(paths.dir.unwrap(), std::env::current_dir().unwrap().join("here"));
}

#[test]
fn prepare_makes_private_folders_and_is_idempotent() {
    let temp = tempfile::tempdir().unwrap();
    let paths = Paths::below(&temp.path().join("a/b")).unwrap();
    paths.prepare().unwrap();
    chmod(&paths.workers_dir, 0o755);
    paths.prepare().unwrap();
    assert_eq!(fs::metadata(&paths.workers_dir).unwrap().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(temp.path().join("a/b")).unwrap().mode() & 0o777, 0o711);
}

#[test]
fn a_folder_everybody_can_write_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    chmod(temp.path(), 0o1777);
    let paths = Paths::below(temp.path()).unwrap();
    let error = paths.check(Caller::Client).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("PORTWAY_DIR {} is writable by everybody (mode 1777)", temp.path().display())
    );
    assert!(error.hint().unwrap().contains("mkdir -m 700"), "nobody is to change /tmp");
    assert!(paths.prepare().is_err());
    chmod(temp.path(), 0o777);
    assert!(paths.check(Caller::Client).unwrap_err().hint().unwrap().starts_with("chmod o-w"));
}

/// Who may make names in the folder may put a link, or a socket of their own, in the place of anything there.
///
/// Fails when: only the bit for everybody is looked at.
#[test]
fn a_folder_its_group_can_write_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    // Only root can give it to another group; anybody else's own is another than root's.
    let given = std::os::unix::fs::chown(temp.path(), None, Some(54_321)).is_ok();
    chmod(temp.path(), 0o2770);
    let paths = Paths::below(temp.path()).unwrap();
    let error = paths.check(Caller::Daemon).unwrap_err();
    let gid = fs::metadata(temp.path()).unwrap().gid();
    let said =
        format!("PORTWAY_DIR {} is writable by its group, gid {gid} (mode 2770)", temp.path().display());
    assert_eq!(error.to_string(), said);
    assert!(error.hint().unwrap().starts_with("chmod g-w"));
    assert!(paths.check(Caller::Client).is_err() && paths.prepare().is_err());
    if given {
        std::os::unix::fs::chown(temp.path(), None, Some(0)).unwrap();
        chmod(temp.path(), 0o770);
        paths.prepare().unwrap();
    }
}

#[test]
fn a_folder_of_somebody_else_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    // Only root can give a folder away; as anybody else root's own folder is the foreign one.
    let dir = if std::os::unix::fs::chown(temp.path(), Some(65_534), None).is_ok() {
        temp.path().to_owned()
    } else {
        PathBuf::from("/usr")
    };
    let paths = Paths::below(&dir).unwrap();
    assert!(matches!(paths.check(Caller::Daemon), Err(PathsError::Owner { .. })));
}

#[test]
fn the_longest_folder_that_passes_holds_the_longest_socket() {
    let most = SOCKET_PATH_MAX_BYTES - longest_name_bytes();
    let fits = Paths::below(Path::new(&format!("/{}", "d".repeat(most - 1)))).unwrap();
    let name = format!("{}.sock", "w".repeat(WORKER_NAME_MAX_BYTES));
    assert_eq!(fits.workers_dir.join(name).as_os_str().len(), SOCKET_PATH_MAX_BYTES);
    assert!(matches!(fits.check(Caller::Daemon), Err(PathsError::Unreadable { .. })));
    let long = Paths::below(Path::new(&format!("/{}", "d".repeat(most)))).unwrap();
    let error = long.check(Caller::Daemon).unwrap_err();
    assert!(matches!(error, PathsError::TooLong { need_bytes: 108, .. }), "{error}");
}

#[test]
fn a_second_daemon_is_told_who_is_there() {
    let temp = tempfile::tempdir().unwrap();
    let paths = Paths::below(temp.path()).unwrap();
    let held = paths.lock().unwrap();
    let error = paths.lock().unwrap_err();
    let me = std::process::id();
    assert!(matches!(error, PathsError::Busy { pid: Some(pid), .. } if pid == me), "{error}");
    drop(held);
    paths.lock().unwrap();
}

/// Whoever can open a file can lock it, for reading as well: that would keep the daemon from starting.
#[test]
fn the_lock_is_nobody_else_s_to_open() {
    let temp = tempfile::tempdir().unwrap();
    let paths = Paths::below(temp.path()).unwrap();
    drop(File::create(&paths.lock).unwrap());
    fs::set_permissions(&paths.lock, Permissions::from_mode(0o644)).unwrap();
    let _held = paths.lock().unwrap();
    assert_eq!(fs::metadata(&paths.lock).unwrap().permissions().mode() & 0o777, 0o600);
}
