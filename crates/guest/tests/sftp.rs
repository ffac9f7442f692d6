//! The SFTP server: OpenSSH's client against it, and what no client of good manners sends.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};

use portway_proto::sftp::{Attributes, DATA_MAX_BYTES, PACKET_MAX_BYTES};

const GUEST: &str = env!("CARGO_BIN_EXE_portway-guest");

/// Runs OpenSSH's client with a batch of commands in `dir`, whose server starts in `home` below it.
fn client(dir: &Path, batch: &str) -> Output {
    let home = dir.join("home");
    fs::create_dir_all(&home).expect("a folder can be made");
    fs::write(dir.join("batch"), batch).expect("a file can be written");
    let server = format!("{GUEST} sftp");
    let mut command = Command::new("sftp");
    command.args(["-D", &server, "-b"]).arg(dir.join("batch")).current_dir(&home).env("HOME", &home);
    command.output().expect("sftp is installed")
}

fn works(dir: &Path, batch: &str) -> String {
    let output = client(dir, batch);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{batch}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn pattern(length: u32) -> Vec<u8> {
    (0..length).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[2]).collect()
}

/// Fails when: a piece is lost, or mode and time of a file are not kept.
#[test]
fn files_go_there_and_back() {
    let dir = tempfile::tempdir().unwrap();
    let sent = dir.path().join("sent");
    fs::write(&sent, pattern(5_000_001)).unwrap();
    fs::set_permissions(&sent, fs::Permissions::from_mode(0o750)).unwrap();
    works(dir.path(), "put -p ../sent there\nget -p there ../back\n");
    let back = dir.path().join("back");
    assert!(fs::read(&back).unwrap() == pattern(5_000_001));
    let (one, two) = (fs::metadata(&sent).unwrap(), fs::metadata(&back).unwrap());
    assert_eq!((two.mode(), two.mtime()), (one.mode(), one.mtime()));
    // Resumed from the middle, both ways.
    fs::write(&back, pattern(2_000_000)).unwrap();
    fs::write(dir.path().join("home/there"), pattern(3_000_000)).unwrap();
    works(dir.path(), "reput ../sent there\nreget there ../back\n");
    assert!(fs::read(&back).unwrap() == pattern(5_000_001));
}

#[test]
fn folders_go_there_and_back() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree/a/b");
    fs::create_dir_all(&tree).unwrap();
    for number in 0..250 {
        fs::write(tree.join(format!("file {number}")), number.to_string()).unwrap();
    }
    let listed = works(dir.path(), "put -r ../tree .\nget -r tree ../again\nls -1 tree/a/b\n");
    assert_eq!(listed.lines().filter(|line| line.contains("file ")).count(), 250);
    for number in 0..250 {
        let path = dir.path().join(format!("again/a/b/file {number}"));
        assert_eq!(fs::read_to_string(path).unwrap(), number.to_string());
    }
}

/// Every command of the client that changes something.
#[test]
fn names_and_attributes_are_changed() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home");
    fs::create_dir(&home).unwrap();
    fs::write(home.join("one"), "one").unwrap();
    fs::write(home.join("two"), "two").unwrap();
    works(
        dir.path(),
        "rename one two\nln two hard\nln -s two soft\nmkdir dir\nchmod 4711 two\ncp two copy\nrmdir dir\nmkdir dir\n\
         cd dir\nput ../batch x\nrm x\ncd ..\nrmdir dir\n",
    );
    assert_eq!(fs::read_to_string(home.join("two")).unwrap(), "one");
    assert_eq!(fs::metadata(home.join("hard")).unwrap().nlink(), 2);
    assert_eq!(fs::read_link(home.join("soft")).unwrap(), Path::new("two"));
    assert_eq!(fs::metadata(home.join("two")).unwrap().mode() & 0o7777, 0o4711);
    assert_eq!(fs::read_to_string(home.join("copy")).unwrap(), "one");
    assert!(!home.join("dir").exists() && !home.join("one").exists());
}

#[test]
fn what_is_shown_is_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home");
    fs::create_dir(&home).unwrap();
    fs::write(home.join("file"), "12345").unwrap();
    symlink("file", home.join("link")).unwrap();
    let shown = works(dir.path(), "pwd\nls -l\ndf\n");
    let real = fs::canonicalize(&home).unwrap();
    assert!(shown.contains(&format!("Remote working directory: {}", real.display())), "{shown}");
    assert!(shown.lines().any(|line| line.starts_with("-rw-") && line.contains(" 5 ")), "{shown}");
    assert!(shown.lines().any(|line| line.starts_with("lrwx")), "{shown}");
    assert!(shown.contains('%'), "the file system's size: {shown}");
}

#[test]
fn a_refusal_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let said = |batch| String::from_utf8_lossy(&client(dir.path(), batch).stderr).into_owned();
    assert!(said("get nothing\n").contains("not found"));
    assert!(said("rm nothing\n").contains("No such file"));
    fs::create_dir(dir.path().join("home/full")).unwrap();
    fs::write(dir.path().join("home/full/x"), "").unwrap();
    assert!(said("rmdir full\n").contains("Failure"));
}

/// What the client does not do by itself, packet by packet.
struct Raw {
    server: Child,
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
    next: u32,
}

impl Raw {
    fn start(home: &Path) -> Self {
        let mut command = Command::new(GUEST);
        command.arg("sftp").current_dir(home).env("HOME", home);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut server = command.spawn().expect("it starts");
        let (stdin, stdout) = (server.stdin.take(), server.stdout.take().expect("it is piped"));
        let mut raw = Self { server, stdin, stdout, next: 0 };
        raw.send(&[1, 0, 0, 0, 3]);
        let version = raw.packet();
        assert_eq!(version[..5], [2, 0, 0, 0, 3]);
        raw
    }

    fn send(&mut self, packet: &[u8]) {
        let length = u32::try_from(packet.len()).expect("it is short").to_be_bytes();
        let stdin = self.stdin.as_mut().expect("it is open");
        stdin.write_all(&[&length, packet].concat()).expect("the server reads");
    }

    fn packet(&mut self) -> Vec<u8> {
        let mut length = [0; 4];
        self.stdout.read_exact(&mut length).expect("the server answers");
        let mut packet = vec![0; u32::from_be_bytes(length) as usize];
        self.stdout.read_exact(&mut packet).expect("the answer is whole");
        packet
    }

    /// Asks, and returns the answer's type and what follows its number.
    fn ask(&mut self, kind: u8, fields: &[&[u8]]) -> (u8, Vec<u8>) {
        self.next += 1;
        let number = self.next.to_be_bytes();
        self.send(&[&[kind], &number[..], &fields.concat()].concat());
        let answer = self.packet();
        assert_eq!(answer[1..5], number);
        (answer[0], answer[5..].to_vec())
    }

    fn status(&mut self, kind: u8, fields: &[&[u8]]) -> u8 {
        let (kind, answer) = self.ask(kind, fields);
        assert_eq!(kind, 101, "a status");
        answer[3]
    }

    fn open(&mut self, path: &[u8], flags: u32) -> Vec<u8> {
        let (kind, answer) = self.ask(3, &[&text(path), &flags.to_be_bytes(), &[0; 4]]);
        assert_eq!(kind, 102, "a handle");
        answer
    }

    /// Ends standard input; what the server had to say of it, and whether it ended well.
    fn end(&mut self) -> (bool, String) {
        drop(self.stdin.take());
        let mut said = String::new();
        self.server.stderr.take().expect("it is piped").read_to_string(&mut said).expect("it is text");
        (self.server.wait().expect("it is ours").success(), said)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.server.wait();
    }
}

fn text(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).expect("it is short").to_be_bytes(), bytes].concat()
}

fn extension(name: &str) -> Vec<u8> {
    text(name.as_bytes())
}

#[test]
fn a_rename_takes_nobodys_place_but_a_posix_one_does() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a"), "a").unwrap();
    fs::write(dir.path().join("b"), "b").unwrap();
    let mut raw = Raw::start(dir.path());
    assert_eq!(raw.status(18, &[&text(b"a"), &text(b"b")]), 4);
    assert_eq!(fs::read(dir.path().join("b")).unwrap(), b"b");
    assert_eq!(raw.status(200, &[&extension("posix-rename@openssh.com"), &text(b"a"), &text(b"b")]), 0);
    assert_eq!(fs::read(dir.path().join("b")).unwrap(), b"a");
    assert_eq!(raw.status(18, &[&text(b"b"), &text(b"c")]), 0);
    assert!(dir.path().join("c").exists());
}

#[test]
fn names_are_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let name = b"caf\xe9 \n\xff";
    let mut raw = Raw::start(dir.path());
    raw.open(name, 0x1a);
    assert!(dir.path().join(std::ffi::OsStr::from_bytes(name)).exists());
    let (kind, handle) = raw.ask(11, &[&text(b".")]);
    assert_eq!(kind, 102);
    let (kind, entries) = raw.ask(12, &[&handle]);
    assert!(kind == 104 && entries.windows(name.len()).any(|window| window == name));
    assert_eq!(raw.status(12, &[&handle]), 1, "the end");
    // A zero byte would end the name somewhere else.
    assert_eq!(raw.status(13, &[&text(b"a\0b")]), 5);
}

/// Fails when: requests are answered one at a time and not as they come, or out of order.
#[test]
fn many_requests_at_once_are_answered_in_order() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), pattern(1_000_000)).unwrap();
    let mut raw = Raw::start(dir.path());
    let handle = raw.open(b"file", 1);
    let mut stdin = raw.stdin.take().unwrap();
    let asking = std::thread::spawn(move || {
        for number in 0..1000_u32 {
            let read = [
                &[5],
                &number.to_be_bytes()[..],
                &handle,
                &u64::from(number * 1000).to_be_bytes(),
                &1000_u32.to_be_bytes(),
            ];
            stdin.write_all(&text(&read.concat())).unwrap();
        }
        stdin
    });
    let mut came = Vec::new();
    for number in 0..1000_u32 {
        let answer = raw.packet();
        assert_eq!((answer[0], &answer[1..5]), (103, &number.to_be_bytes()[..]));
        came.extend_from_slice(&answer[9..]);
    }
    assert!(came == pattern(1_000_000));
    raw.stdin = Some(asking.join().unwrap());
}

#[test]
fn reads_and_writes_have_their_bounds() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), vec![7; 400_000]).unwrap();
    let mut raw = Raw::start(dir.path());
    let handle = raw.open(b"file", 1);
    let (kind, data) = raw.ask(5, &[&handle, &0_u64.to_be_bytes(), &u32::MAX.to_be_bytes()]);
    assert_eq!((kind, data.len()), (103, 4 + DATA_MAX_BYTES));
    assert_eq!(raw.status(5, &[&handle, &400_000_u64.to_be_bytes(), &9_u32.to_be_bytes()]), 1);
    assert_eq!(raw.status(5, &[&handle, &u64::MAX.to_be_bytes(), &9_u32.to_be_bytes()]), 5);
    assert_eq!(raw.status(6, &[&handle, &0_u64.to_be_bytes(), &text(b"x")]), 2, "opened to read");
    let (kind, limits) = raw.ask(200, &[&extension("limits@openssh.com")]);
    assert_eq!((kind, &limits[..8]), (201, &(PACKET_MAX_BYTES as u64).to_be_bytes()[..]));
}

/// Fails when: a client opens without end, or uses what is closed.
#[test]
fn handles_are_counted_and_checked() {
    let dir = tempfile::tempdir().unwrap();
    let mut raw = Raw::start(dir.path());
    let handles: Vec<_> = (0..400).map(|_| raw.open(b"x", 0x9)).collect();
    assert_eq!(raw.status(11, &[&text(b".")]), 4);
    assert_eq!(raw.status(4, &[&handles[7]]), 0);
    assert_eq!(raw.status(4, &[&handles[7]]), 2);
    assert_eq!(raw.status(8, &[&handles[7]]), 2);
    assert_eq!(raw.status(4, &[&text(b"\xff\xff\xff\xff")]), 2);
    assert_eq!(raw.status(4, &[&text(b"x")]), 2);
    assert_eq!(raw.status(4, &[&text(b"")]), 2);
    assert_eq!(raw.open(b"x", 1), handles[7], "its place is free");
    assert_eq!(raw.status(12, &[&handles[0]]), 2, "no folder");
    assert_eq!(raw.ask(8, &[&handles[0]]).0, 105);
}

#[test]
fn extensions_do_what_they_say() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("from"), pattern(300_000)).unwrap();
    symlink("from", dir.path().join("link")).unwrap();
    let real = fs::canonicalize(dir.path()).unwrap();
    let mut raw = Raw::start(dir.path());
    let (from, to) = (raw.open(b"from", 1), raw.open(b"to", 0x1a));
    let (begin, length) = (10_u64.to_be_bytes(), 200_000_u64.to_be_bytes());
    assert_eq!(raw.status(200, &[&extension("copy-data"), &from, &begin, &length, &to, &[0; 8]]), 0);
    assert!(fs::read(dir.path().join("to")).unwrap() == pattern(300_000)[10..200_010]);
    assert_eq!(raw.status(200, &[&extension("copy-data"), &from, &[0; 8], &[0; 8], &to, &[0; 8]]), 0);
    assert!(fs::read(dir.path().join("to")).unwrap() == pattern(300_000));
    assert_eq!(raw.status(200, &[&extension("fsync@openssh.com"), &to]), 0);
    let mut attributes = Vec::new();
    Attributes { times: Some((5, 6)), ..Attributes::default() }.write(&mut attributes);
    assert_eq!(raw.status(200, &[&extension("lsetstat@openssh.com"), &text(b"link"), &attributes]), 0);
    assert_eq!(fs::symlink_metadata(dir.path().join("link")).unwrap().mtime(), 6);
    assert_ne!(fs::metadata(dir.path().join("from")).unwrap().mtime(), 6);
    let named = |(kind, answer): (u8, Vec<u8>)| {
        assert_eq!(kind, 104);
        let length = usize::from(answer[7]);
        answer[8..8 + length].to_vec()
    };
    let home = real.as_os_str().as_bytes();
    assert_eq!(
        named(raw.ask(200, &[&extension("expand-path@openssh.com"), &text(b"~/none")])),
        [home, b"/none"].concat()
    );
    assert_eq!(named(raw.ask(200, &[&extension("expand-path@openssh.com"), &text(b"~root")])), b"/root");
    assert_eq!(named(raw.ask(200, &[&extension("home-directory"), &text(b"root")])), b"/root");
    assert_eq!(named(raw.ask(16, &[&text(b"")])), home);
    assert_eq!(named(raw.ask(16, &[&text(b"./none")])), [home, b"/none"].concat());
    assert_eq!(raw.status(16, &[&text(b"none/none")]), 2);
    let zero = text(&0_u32.to_be_bytes());
    let (kind, names) = raw.ask(200, &[&extension("users-groups-by-id@openssh.com"), &zero, &zero]);
    assert_eq!((kind, names), (201, [text(&text(b"root")), text(&text(b"root"))].concat()));
    assert_eq!(raw.ask(200, &[&extension("statvfs@openssh.com"), &text(b"/")]).1.len(), 88);
}

/// Fails when: an id of 2^32-1, which changes nothing, is said to have been set.
#[test]
fn what_is_malformed_is_said_to_be_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut raw = Raw::start(dir.path());
    assert_eq!(raw.status(5, &[b"\xff\xff\xff\xff"]), 5);
    assert_eq!(raw.status(3, &[&text(b"x")]), 5);
    assert_eq!(raw.status(77, &[b"what"]), 8);
    assert_eq!(raw.status(200, &[&extension("later@example.org")]), 8);
    fs::write(dir.path().join("x"), "").unwrap();
    assert_eq!(raw.status(9, &[&text(b"x"), &2_u32.to_be_bytes(), &[0xff; 8]]), 5);
    assert!(raw.end().0);
    for (packet, why) in [(&[0, 8, 0, 1][..], "524289 bytes"), (&[0, 0, 0, 2, 5, 0], "without a number")] {
        let mut raw = Raw::start(dir.path());
        raw.stdin.as_mut().unwrap().write_all(packet).unwrap();
        let (well, said) = raw.end();
        assert!(!well && said.contains(why), "{said}");
    }
}
