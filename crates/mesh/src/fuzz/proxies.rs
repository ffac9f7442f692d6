//! What is read of clients of proxies, and of name servers.

use portway_proto::http_connect::Head;
use portway_proto::socks5::{self, Expected, Heard, Hearing};

/// A conversation, each message where the one before ends; and the same bytes as a datagram.
pub(super) fn socks5(data: &[u8]) {
    let mut rest = data;
    for expected in [Expected::Greeting, Expected::Login, Expected::Request] {
        let mut hearing = Hearing::of(expected);
        loop {
            let room = hearing.room();
            let count = room.len().min(rest.len());
            let (now, behind) = rest.split_at(count);
            room.iter_mut().zip(now).for_each(|(to, from)| *to = *from);
            rest = behind;
            match hearing.filled(count) {
                Ok(None) if count > 0 => {}
                Ok(Some(Heard::Login { user, password })) => {
                    assert!(user.len() <= 255 && password.len() <= 255);
                    break;
                }
                Ok(Some(Heard::Greeting { .. } | Heard::Request(_))) => break,
                Ok(None) | Err(_) => return,
            }
        }
    }
    if let Ok(wrapped) = socks5::unwrap(data) {
        assert!(data.ends_with(wrapped.payload) && !wrapped.target.to_string().contains('\n'));
    }
}

/// In pieces as in one: the same is read, and no byte behind the head is taken.
pub(super) fn http_connect(data: &[u8]) {
    let hear = |step: usize| {
        let (mut head, mut count) = (Head::default(), 0);
        for piece in data.chunks(step) {
            let taken = head.take(piece).ok()?;
            count += taken.count;
            if taken.is_whole {
                let request =
                    head.read().map(|request| (request.target, request.authorization.map(str::to_owned)));
                return Some((request, count));
            }
        }
        None
    };
    let whole = hear(usize::MAX);
    assert_eq!(whole, hear(3));
    if let Some((_, count)) = whole {
        assert!(data.get(..count).unwrap_or_default().ends_with(b"\r\n\r\n"));
    }
}

/// An answer to a question; the first bytes say which one it was.
pub(super) fn names(data: &[u8]) {
    crate::proxy::probe_names(data);
}
