//! Finds the frames of one stream.

use super::{DATA_MAX_BYTES, FRAME_MAX_BYTES, FrameError};

/// Bytes that are read at a time at least.
const READ_BYTES: usize = DATA_MAX_BYTES + 4096;

/// Memory that is kept between frames, bytes: the packets of a file that is being sent (SFTP's are 256 KiB at most) are
/// not to ask for it again and again.
const KEPT_BYTES: usize = 320 * 1024;

/// Length of a frame's length, bytes.
const LENGTH_BYTES: usize = 4;

/// What has been read of a stream and not yet been used.
///
/// It holds one frame at most beside what one read brings: [`Inbox::next`] is called until it says `None` before there is
/// room again.
#[derive(Debug, Default)]
pub struct Inbox {
    buffer: Vec<u8>,
    begin: usize,
    end: usize,
}

impl Inbox {
    /// Where the next bytes go.
    pub fn room(&mut self) -> &mut [u8] {
        if self.begin > 0 {
            self.buffer.copy_within(self.begin..self.end, 0);
            self.end -= self.begin;
            self.begin = 0;
        }
        if self.end == 0 && self.buffer.len() > KEPT_BYTES {
            // The memory of a long frame is given back.
            self.buffer.truncate(READ_BYTES);
            self.buffer.shrink_to_fit();
        }
        if self.buffer.len() < self.end + READ_BYTES {
            self.buffer.resize(self.end + READ_BYTES, 0);
        }
        self.buffer.get_mut(self.end..).unwrap_or_default()
    }

    /// Says how many bytes have been put into the room.
    pub fn filled(&mut self, bytes: usize) {
        self.end = self.end.saturating_add(bytes).min(self.buffer.len());
    }

    /// The next frame that is whole, without its length.
    ///
    /// # Errors
    /// [`FrameError::Length`] for one that is empty or too long, for ever.
    #[expect(
        clippy::should_implement_trait,
        reason = "an item borrows from the inbox: no Iterator can lend it"
    )]
    pub fn next(&mut self) -> Result<Option<&[u8]>, FrameError> {
        let unused = self.buffer.get(self.begin..self.end).unwrap_or_default();
        let Some(length) = unused.first_chunk().map(|bytes| u32::from_be_bytes(*bytes)) else {
            return Ok(None);
        };
        let bytes = usize::try_from(length).unwrap_or(usize::MAX);
        if bytes == 0 || bytes > FRAME_MAX_BYTES {
            return Err(FrameError::Length(length));
        }
        let begin = self.begin + LENGTH_BYTES;
        if self.end < begin + bytes {
            return Ok(None);
        }
        self.begin = begin + bytes;
        Ok(self.buffer.get(begin..begin + bytes))
    }

    /// Whether a frame has begun that is not whole.
    #[must_use]
    pub const fn is_amid(&self) -> bool {
        self.begin < self.end
    }

    /// Memory that it holds, bytes.
    #[must_use]
    pub const fn kept_bytes(&self) -> usize {
        self.buffer.capacity()
    }
}
