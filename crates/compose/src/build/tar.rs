//! What the server wants besides the image's files: a small archive that describes it, and folders that every instance
//! needs and an image of a few files may lack.

use std::io::{self, Read};

use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::{Build, CONFIG, CONTENT, Inspected, NAMED, PROJECT};
use crate::want::Keys;

/// Size of a record of an archive (POSIX, pax: ustar interchange format).
pub(super) const RECORD: usize = 512;

/// Where LXC mounts what every instance has.
const FOLDERS: [&str; 3] = ["dev/", "proc/", "sys/"];

/// The archive that describes an image: equal images give equal bytes. `content` is the hash of its files.
#[must_use]
pub fn metadata(image: &Inspected, project: &str, build: &Build, content: &str) -> Vec<u8> {
    let properties = properties(image, project, build, content);
    // JSON is YAML. Of an image without a time the server says that it never was.
    let document =
        json!({"architecture": image.architecture, "creation_date": 1, "properties": properties}).to_string();
    let mut archive = header("metadata.yaml", b'0', 0o644, document.len());
    archive.extend_from_slice(document.as_bytes());
    archive.resize(archive.len().next_multiple_of(RECORD), 0);
    // Its end: two empty records.
    archive.resize(archive.len() + 2 * RECORD, 0);
    archive
}

/// What an image is told by: two with the same are the same.
#[must_use]
pub fn properties(image: &Inspected, project: &str, build: &Build, content: &str) -> Keys {
    let config = serde_json::to_string(&image.config).unwrap_or_default();
    let pairs = [
        ("description", build.name.as_str()),
        ("architecture", &image.architecture),
        (PROJECT, project),
        (NAMED, if build.is_named { "true" } else { "false" }),
        (CONFIG, &config),
        (CONTENT, content),
    ];
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

/// What stands in front of the archive of the image's files: folders, which those in it replace.
#[must_use]
pub fn folders() -> Vec<u8> {
    FOLDERS.iter().flat_map(|name| header(name, b'5', 0o755, 0)).collect()
}

/// SHA-256 of these and of what is read, one after the other, in hexadecimal; and how much was read.
///
/// # Errors
/// When it cannot be read.
pub fn fingerprint(before: &[&[u8]], mut files: impl Read) -> io::Result<(String, u64)> {
    let mut hash = Sha256::new();
    before.iter().for_each(|part| hash.update(part));
    let mut piece = vec![0; 256 << 10];
    let mut length = 0;
    loop {
        let read = match files.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hash.update(piece.get(..read).unwrap_or_default());
        length += read as u64;
    }
    Ok((hexadecimal(hash), length))
}

/// The end of a hash.
pub(super) fn hexadecimal(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The record in front of a member.
fn header(name: &str, kind: u8, mode: u32, size_bytes: usize) -> Vec<u8> {
    let mut record = vec![0; RECORD];
    let mut put = |at: usize, text: &str| {
        if let Some(field) = record.get_mut(at..at + text.len()) {
            field.copy_from_slice(text.as_bytes());
        }
    };
    put(0, name);
    put(100, &format!("{mode:07o}"));
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{size_bytes:011o}"));
    put(136, "00000000000");
    // The sum is made with blanks in its own place.
    put(148, "        ");
    put(156, std::str::from_utf8(&[kind]).unwrap_or_default());
    put(257, "ustar\x0000");
    let sum: u32 = record.iter().map(|byte| u32::from(*byte)).sum();
    let sum = format!("{sum:06o}\0 ");
    if let Some(field) = record.get_mut(148..156) {
        field.copy_from_slice(sum.as_bytes());
    }
    record
}
