//! Equally long datagrams in a row, given to the kernel as one: segmentation offload of UDP (`UDP_SEGMENT`).
//!
//! They pass the network stack once, and are as many again where they leave it: at a network card, or at the
//! socket that receives them.

use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::ptr;

use super::{BATCH, Batch, CMSG_HEADER_BYTES, align, put};

/// A row's payload at most, bytes: what one datagram holds, in either family.
const ROW_MAX_BYTES: usize = 65_507;

/// Length of the control message that says where to cut.
const CONTROL_BYTES: usize = CMSG_HEADER_BYTES + size_of::<u16>();

impl Batch {
    /// As [`Batch::send_connected`], with rows of datagrams of at most `longest` bytes sent as one. It becomes less
    /// when the kernel takes no row of such datagrams, because one is longer than a packet of its way may be; what
    /// was refused has been sent one by one.
    ///
    /// # Errors
    /// As [`Batch::send_connected`].
    pub fn send_rows(
        &mut self,
        socket: BorrowedFd<'_>,
        slots: Range<usize>,
        longest: &mut usize,
    ) -> io::Result<usize> {
        let mut counts = [0; BATCH];
        let (mut messages, mut at) = (0, slots.start);
        while at < slots.end
            && let Some(count) = counts.get_mut(messages)
        {
            *count = self.row_at(at..slots.end, *longest);
            self.gather(slots.start + messages, at, *count);
            at += *count;
            messages += 1;
        }
        match self.send(socket, slots.start..slots.start + messages) {
            Ok(sent) => Ok(counts.iter().take(sent).sum()),
            Err(error) if is_refusal(&error) => match counts.first() {
                Some(count @ 2..) => {
                    *longest = self.bytes(slots.start).len().saturating_sub(1);
                    self.send_connected(socket, slots.start..slots.start + count)
                }
                Some(_) | None => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    /// How many datagrams from the first of `slots` on make a row: all as long as the first, but the last, which may
    /// be shorter.
    fn row_at(&self, mut slots: Range<usize>, longest: usize) -> usize {
        let length = |slot: usize| self.lengths.get(slot).copied().unwrap_or(0);
        let first = slots.next().map_or(0, length);
        let (mut count, mut bytes, mut last) = (1, first, first);
        if first == 0 || first > longest {
            return count;
        }
        for slot in slots {
            let next = length(slot);
            if last < first || next == 0 || next > first || bytes + next > ROW_MAX_BYTES {
                break;
            }
            (count, bytes, last) = (count + 1, bytes + next, next);
        }
        count
    }

    /// Makes the send header at `place` cover `count` slots from `first` on.
    fn gather(&mut self, place: usize, first: usize, count: usize) {
        for slot in first..first + count {
            self.point(slot);
        }
        let length = u16::try_from(self.bytes(first).len()).unwrap_or(u16::MAX);
        let out = &mut self.to_send;
        let (Some(header), Some(control)) = (out.headers.get_mut(place), out.controls.get_mut(place)) else {
            return;
        };
        let Some(vectors) = out.vectors.get_mut(first..first + count) else { return };
        header.msg_hdr.msg_name = ptr::null_mut();
        header.msg_hdr.msg_namelen = 0;
        header.msg_hdr.msg_iov = vectors.as_mut_ptr();
        header.msg_hdr.msg_iovlen = count as _;
        header.msg_hdr.msg_control = ptr::null_mut();
        header.msg_hdr.msg_controllen = 0;
        if count > 1 {
            put(&mut control.0, 0, &CONTROL_BYTES.to_ne_bytes());
            put(&mut control.0, size_of::<usize>(), &libc::SOL_UDP.to_ne_bytes());
            put(&mut control.0, size_of::<usize>() + 4, &libc::UDP_SEGMENT.to_ne_bytes());
            put(&mut control.0, CMSG_HEADER_BYTES, &length.to_ne_bytes());
            header.msg_hdr.msg_control = ptr::from_mut(control).cast();
            header.msg_hdr.msg_controllen = align(CONTROL_BYTES) as _;
        }
    }
}

/// Whether the kernel takes a message, but not as a row: a part is longer than a packet may be, or nothing on the way
/// can cut it.
fn is_refusal(error: &io::Error) -> bool {
    let refusals = [libc::EINVAL, libc::EMSGSIZE, libc::EIO, libc::EOPNOTSUPP];
    error.raw_os_error().is_some_and(|errno| refusals.contains(&errno))
}
