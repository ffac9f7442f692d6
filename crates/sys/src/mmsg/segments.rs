//! Equally long datagrams in a row, given to the kernel as one: segmentation offload of UDP (`UDP_SEGMENT`).
//!
//! They pass the network stack once, and are as many again where they leave it: at a network card, or at the
//! socket that receives them.

use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::ptr;

use super::{Addressed, BATCH, Batch, CMSG_HEADER_BYTES, Sent, align, length_of_name, put};

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

    /// Sends the datagrams in `slots`, each as [`Batch::address`] said, and those in a row that go the same way as one.
    ///
    /// # Errors
    /// What became of the first one: `WouldBlock`, no route, or a pending error of the socket.
    pub fn send_addressed(&mut self, socket: BorrowedFd<'_>, slots: Range<usize>) -> io::Result<Sent> {
        let mut counts = [0; BATCH];
        let (mut messages, mut at) = (0, slots.start);
        while at < slots.end
            && let Some(count) = counts.get_mut(messages)
        {
            let longest = self.addressed.get(at).map_or(0, |addressed| addressed.longest);
            let end = (at + 1..slots.end).find(|slot| !self.goes_with(at, *slot)).unwrap_or(slots.end);
            *count = self.row_at(at..end, longest);
            self.gather_addressed(slots.start + messages, at, *count);
            at += *count;
            messages += 1;
        }
        match self.send(socket, slots.start..slots.start + messages) {
            Ok(sent) => Ok(Sent { count: counts.iter().take(sent).sum(), refused: None }),
            Err(error) if is_refusal(&error) => match counts.first() {
                Some(count @ 2..) => {
                    let row = slots.start..slots.start + count;
                    row.clone().for_each(|slot| self.gather_addressed(slot, slot, 1));
                    Ok(Sent { count: self.send(socket, row)?, refused: Some(slots.start) })
                }
                Some(_) | None => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    /// Whether what is in `slot` goes where the one in `first` does, from the same address.
    fn goes_with(&self, first: usize, slot: usize) -> bool {
        let from = |slot: usize| self.addressed.get(slot).map(|addressed| addressed.from);
        self.to_send.names.get(first) == self.to_send.names.get(slot) && from(first) == from(slot)
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
        self.cover(place, first, count, Addressed::default());
    }

    /// The same for slots that are addressed, all as the first.
    fn gather_addressed(&mut self, place: usize, first: usize, count: usize) {
        let addressed = self.addressed.get(first).copied().unwrap_or_default();
        self.cover(place, first, count, addressed);
    }

    /// Makes the send header at `place` cover `count` slots from `first` on, with the name and the control message of the
    /// first of them as far as there are any. What says where to cut is put behind that.
    fn cover(&mut self, place: usize, first: usize, count: usize, addressed: Addressed) {
        for slot in first..first + count {
            self.point(slot);
        }
        let length = u16::try_from(self.bytes(first).len()).unwrap_or(u16::MAX);
        let out = &mut self.to_send;
        let (Some(header), Some(name), Some(control), Some(vectors)) = (
            out.headers.get_mut(place),
            out.names.get_mut(first),
            out.controls.get_mut(first),
            out.vectors.get_mut(first..first + count),
        ) else {
            return;
        };
        let Addressed { name_bytes, control_bytes: at, .. } = addressed;
        let mut control_bytes = at;
        if count > 1 {
            put(&mut control.0, at, &CONTROL_BYTES.to_ne_bytes());
            put(&mut control.0, at + size_of::<usize>(), &libc::SOL_UDP.to_ne_bytes());
            put(&mut control.0, at + size_of::<usize>() + 4, &libc::UDP_SEGMENT.to_ne_bytes());
            put(&mut control.0, at + CMSG_HEADER_BYTES, &length.to_ne_bytes());
            control_bytes += align(CONTROL_BYTES);
        }
        let header = &mut header.msg_hdr;
        header.msg_name = if name_bytes == 0 { ptr::null_mut() } else { ptr::from_mut(name).cast() };
        header.msg_namelen = length_of_name(name_bytes);
        header.msg_iov = vectors.as_mut_ptr();
        header.msg_iovlen = count as _;
        header.msg_control = if control_bytes == 0 { ptr::null_mut() } else { ptr::from_mut(control).cast() };
        header.msg_controllen = control_bytes as _;
    }
}

/// Whether the kernel takes a message, but not as a row: a part is longer than a packet may be, or nothing on the way
/// can cut it.
pub(super) fn is_refusal(error: &io::Error) -> bool {
    let refusals = [libc::EINVAL, libc::EMSGSIZE, libc::EIO, libc::EOPNOTSUPP];
    error.raw_os_error().is_some_and(|errno| refusals.contains(&errno))
}
