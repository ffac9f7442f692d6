//! An image that is sent to the server: an archive that describes it, and one of its files, which is read from a file
//! while it is sent.

use std::fs::File;
use std::io::{self, Read as _};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use hyper::{Method, StatusCode, header};

use crate::encode::percent_encode;
use crate::operation::accepted;
use crate::transport::{protocol, request};
use crate::{Client, IncusError, Operation, Result};

/// Longest time to send an image: what takes longer is sent to nobody.
const SEND: Duration = Duration::from_secs(3600);

/// What is read and sent at a time.
const PIECE_BYTES: usize = 256 << 10;

/// An image to be sent.
#[derive(Debug)]
pub struct ImageFiles {
    /// SHA-256 of all that follows, in hexadecimal: the image's fingerprint. It divides the parts too, for nothing can hold
    /// its own hash.
    pub fingerprint: String,
    /// The archive with `metadata.yaml`.
    pub metadata: Vec<u8>,
    /// What stands in front of the archive of files.
    pub head: Vec<u8>,
    /// The archive of files, from where it is read to its end.
    pub files: File,
    /// Its length.
    pub files_bytes: u64,
}

impl Client {
    /// Sends an image. The operation leaves `fingerprint`.
    ///
    /// # Errors
    /// [`IncusError`], any; a refusal where the server has it already.
    pub async fn import(&self, project: &str, image: ImageFiles) -> Result<Operation> {
        let target = format!("/1.0/images?project={}", percent_encode(project));
        let kind = format!("multipart/form-data; boundary={}", image.fingerprint);
        let request = request(Method::POST, &target).header(header::CONTENT_TYPE, kind);
        let request = request.body(Upload::new(image)).map_err(|error| protocol(&target, error))?;
        let answered = self.door().answered(&target, request, self.limits().answer_bytes);
        let what = format!("POST {target}");
        let said = tokio::time::timeout(SEND, answered).await;
        let said = said.map_err(|_| IncusError::TimedOut { request: what.clone(), limit: SEND })??;
        if said.status == StatusCode::FORBIDDEN {
            return Err(self.door().denied());
        }
        let path =
            accepted(&what, &said)?.ok_or_else(|| protocol(&target, "an image without an operation"))?;
        Ok(Operation { request: what, path })
    }
}

/// The body: what stands before the files, the files, what stands behind them.
#[derive(Debug)]
struct Upload {
    before: Option<Bytes>,
    files: File,
    left_bytes: u64,
    after: Option<Bytes>,
}

impl Upload {
    fn new(image: ImageFiles) -> Upload {
        let ImageFiles { fingerprint, metadata, head, files, files_bytes } = image;
        let part = |name: &str| {
            format!(
                "--{fingerprint}\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"{name}.tar\"\r\n\
                 Content-Type: application/octet-stream\r\n\r\n"
            )
        };
        let mut before = part("metadata").into_bytes();
        before.extend(metadata);
        before.extend_from_slice(b"\r\n");
        before.extend(part("rootfs").into_bytes());
        before.extend(head);
        let after = format!("\r\n--{fingerprint}--\r\n").into_bytes();
        Upload { before: Some(before.into()), files, left_bytes: files_bytes, after: Some(after.into()) }
    }

    /// The next piece of the files. It is on a disk of this machine, and was written a moment ago: reading it does not
    /// wait.
    fn piece(&mut self) -> io::Result<Bytes> {
        let length = usize::try_from(self.left_bytes).unwrap_or(usize::MAX).min(PIECE_BYTES);
        let mut piece = vec![0; length];
        let read = self.files.read(&mut piece)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        piece.truncate(read);
        self.left_bytes -= u64::try_from(read).unwrap_or(self.left_bytes);
        Ok(piece.into())
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let next = match self.before.take() {
            Some(before) => Some(Ok(before)),
            None if self.left_bytes > 0 => Some(self.piece()),
            None => self.after.take().map(Ok),
        };
        Poll::Ready(next.map(|piece| piece.map(Frame::data)))
    }

    fn size_hint(&self) -> SizeHint {
        let length = |part: &Option<Bytes>| part.as_ref().map_or(0, |part| part.len() as u64);
        SizeHint::with_exact(length(&self.before) + self.left_bytes + length(&self.after))
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    /// Fails when a byte of the parts is lost, or the length is another than what is said before.
    #[tokio::test]
    async fn the_parts_stand_one_after_the_other() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("files");
        let content = vec![7; PIECE_BYTES + 3];
        std::fs::write(&path, &content).expect("written");
        let image = || ImageFiles {
            fingerprint: "f0".to_owned(),
            metadata: b"meta".to_vec(),
            head: b"head".to_vec(),
            files: File::open(&path).expect("there"),
            files_bytes: content.len() as u64,
        };
        let length = Upload::new(image()).size_hint().exact().expect("exact");
        let body = Upload::new(image()).collect().await.expect("read").to_bytes();
        assert_eq!(body.len() as u64, length);
        let text = String::from_utf8_lossy(&body);
        let (before, rest) = text.split_once("meta\r\n--f0\r\n").expect("two parts");
        assert!(before.starts_with("--f0\r\nContent-Disposition: form-data; name=\"metadata\""), "{before}");
        assert!(rest.contains("name=\"rootfs\"") && rest.ends_with("\r\n--f0--\r\n"));
        assert!(rest.contains("\r\n\r\nhead\x07"));
        let short = ImageFiles { files_bytes: content.len() as u64 + 1, ..image() };
        Upload::new(short).collect().await.expect_err("it is shorter than was said");
    }
}
